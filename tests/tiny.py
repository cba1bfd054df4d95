"""Runs that take a second: few episodes of a short T-Maze and an agent with a few thousand weights."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.segments import SegmentLearner

Values = dict[str, Any]
_SPAWNER = multiprocessing.get_context("forkserver")
_SPAWNER.set_forkserver_preload(["rmt_rl.training.segments"])  # imported once for all processes


@contextmanager
def work_folder(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with data sets of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = factory.mktemp("work")
        patch.chdir(folder)
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "data"))
        yield folder


def tiny(agent: str = "rate", /, **training: Any) -> OfflineRun:
    """A config of 10 updates; keywords are fields of `training`, and dictionaries are further sections."""
    sections = {name: training.pop(name) for name in list(training) if isinstance(training[name], dict)}
    small = {"segment_length": 4, "width": 16} | ({} if agent == "bc" else {"heads": 2, "layers": 1})
    values: Values = {
        "env": "tmaze",
        "agent": agent,
        "seed": sections.pop("run", {}).get("seed", 0),
        "env_options": {"corridor_length": [1, 10]},
        "agent_options": small,
        "data": {"collect_episodes": 40, "batch_size": 8, "bucket_batches": 2},
        "training": {"updates": 10, "log_every": 3, "save_every": 4, "warmup": 2, "accelerator": "cpu"} | training,
        "evaluation": {"eval_every": 4, "eval_episodes": 4},
    }
    for name, section in sections.items():
        values[name] = values[name] | section
    config = make_config(values)
    assert isinstance(config, OfflineRun)
    return config


def started(config: OfflineRun, run: Path) -> SegmentLearner:
    """A run's learner before its next update."""
    path = path_of(run)
    saved = read_checkpoint(path) if path.exists() else None
    learner = SegmentLearner(config, saved)
    learner.start(saved)
    return learner


def start_process(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a function of a test module in a process of its own; a `OfflineRun` reaches it as its values."""
    plain = [
        one.model_dump(mode="json", exclude_none=True) if isinstance(one, OfflineRun) else one for one in arguments
    ]
    process = _SPAWNER.Process(target=_run, args=(os.environ.get("MINARI_DATASETS_PATH"), target, *plain))
    process.start()
    return process


def in_process(target: Callable[..., None], *arguments: Any) -> int:
    """Run it to its end; returns its exit code, negative for a signal."""
    process = start_process(target, *arguments)
    process.join()
    return int(process.exitcode)


def _run(data: str | None, target: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    if data:
        os.environ["MINARI_DATASETS_PATH"] = data
    target(*arguments)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def header(path: Path) -> Values:
    """The header of a checkpoint, without the times of updates."""
    with safe_open(path, "pt") as file:
        values: Values = json.loads(file.metadata()["rmt_rl"])
    values["progress"]["unlogged"] = [_timeless(entry) for entry in values["progress"].get("unlogged", [])]
    return values


def metrics(run: Path) -> list[Values]:
    """The lines of a run's metrics, without times."""
    return [_timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _timeless(entry: Values) -> Values:
    return {key: value for key, value in entry.items() if not key.startswith("time/")}


def assert_same_run(run: Path, other: Path) -> None:
    """Bit for bit the same checkpoints, and the same metrics."""
    for name in ("last.safetensors", "best.safetensors"):
        one, two = tensors(run / name), tensors(other / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert header(run / name) == header(other / name)
    assert metrics(run) == metrics(other)


def weights(run: Path) -> torch.Tensor:
    """All weights of a run's last checkpoint in one row."""
    parts = {key: value for key, value in tensors(run / "last.safetensors").items() if key.startswith("model/")}
    return torch.cat([parts[key].flatten() for key in sorted(parts)])
