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

from rmt_rl.registry import agent_class
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.options import OfflineRun, learner_class, make_config
from rmt_rl.training.segments import SegmentLearner

Values = dict[str, Any]
_SPAWNER = multiprocessing.get_context("forkserver")
_SPAWNER.set_forkserver_preload(  # imported once for all processes
    ["rmt_rl.training.loop", "rmt_rl.training.segments", "rmt_rl.cli.progress", "lightning_fabric"]
)


@contextmanager
def work_folder(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a new folder as the current one; data sets are kept in it too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = factory.mktemp("work")
        patch.chdir(folder)
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "data"))
        yield folder


def tiny(agent: str = "rate", /, **training: Any) -> OfflineRun:
    """Return a config of 10 updates.

    Keywords are fields of the section `training`. A keyword whose value is a dictionary is a section of that name.
    """
    sections = {name: training.pop(name) for name in list(training) if isinstance(training[name], dict)}
    small = known_options(agent, {"segment_length": 4, "width": 16, "heads": 2, "layers": 1})
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


def known_options(agent: str, options: Values) -> Values:
    """Return those of the options that an agent has."""
    fields = agent_class(agent).Config.model_fields
    return {name: value for name, value in options.items() if name in fields}


def started(config: OfflineRun, run: Path) -> SegmentLearner:
    """Return a run's learner, ready for its next update."""
    path = path_of(run)
    saved = read_checkpoint(path) if path.exists() else None
    learner = learner_class(config.agent)(config, saved)
    assert isinstance(learner, SegmentLearner)
    learner.start(saved)
    return learner


def start_process(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a function of a test module in a process of its own. It gets an `OfflineRun` as a dictionary of values."""
    plain = [_plain(argument) for argument in arguments]
    process = _SPAWNER.Process(target=_run, args=(os.environ.get("MINARI_DATASETS_PATH"), target, *plain))
    process.start()
    return process


def in_process(target: Callable[..., None], *arguments: Any) -> int:
    """Run a function in a process of its own, to its end; return the exit code, negative for a signal."""
    process = start_process(target, *arguments)
    process.join()
    return int(process.exitcode)


def _plain(argument: Any) -> Any:
    """Return a config as its values, and anything else as it is."""
    return argument.model_dump(mode="json", exclude_none=True) if isinstance(argument, OfflineRun) else argument


def _run(data: str | None, target: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    if data:
        os.environ["MINARI_DATASETS_PATH"] = data
    target(*arguments)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def header(path: Path) -> Values:
    """Return the header of a checkpoint, without the times of updates."""
    with safe_open(path, "pt") as file:
        values: Values = json.loads(file.metadata()["rmt_rl"])
    values["progress"]["unlogged"] = [_timeless(entry) for entry in values["progress"].get("unlogged", [])]
    return values


def metrics(run: Path) -> list[Values]:
    """Return the lines of a run's metrics, without times."""
    return [_timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _timeless(entry: Values) -> Values:
    return {key: value for key, value in entry.items() if not key.startswith("time/")}


def assert_same_run(run: Path, other: Path) -> None:
    """Fail unless two runs have the same checkpoints, bit for bit, and the same metrics."""
    for name in ("last.safetensors", "best.safetensors"):
        one, two = tensors(run / name), tensors(other / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert header(run / name) == header(other / name)
    assert metrics(run) == metrics(other)


def weights(run: Path) -> torch.Tensor:
    """Return all weights of a run's last checkpoint as one vector."""
    parts = {key: value for key, value in tensors(run / "last.safetensors").items() if key.startswith("model/")}
    return torch.cat([parts[key].flatten() for key in sorted(parts)])
