"""Fully sharded training: it learns what one process does, and its checkpoints fit any number of processes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl.cli import main
from rmt_rl.registry import agent_class, names
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.folder import write_config
from rmt_rl.runs.options import OfflineRun, RunConfig, make_config
from rmt_rl.training.loop import resume, train
from tests.nodes import in_processes
from tests.tiny import Values, header, metrics, tiny, work_folder

AGES = {"ageing": 2, "ageing_from": 0, "ageing_updates": 4}
AGED = {"data": {"feed": "streams"}, **AGES}
UNLIKE: dict[str, Values] = {
    "rate": AGED,
    "rmt": {"gradient": "replay"},
    "elmur": {"gradient": "truncated", "depth": 2, "data": {"feed": "windows", "burn_in": 1}},
    "titans_mac": {"gradient": "replay", **AGED},
    "bc_lstm": {"gradient": "full", "precision": "bf16-mixed"},
}
OFFLINE = [name for name in names("agents") if agent_class(name).learner.endswith(":SegmentLearner")]


@pytest.fixture(autouse=True, scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with work_folder(tmp_path_factory):
        train(tiny("bc", updates=1, evaluation={"eval_episodes": 0}), tmp_path_factory.mktemp("collected") / "run")
        yield


def short(name: str) -> OfflineRun:
    """Return a config of two updates of an agent."""
    values = tiny("bc", updates=2, save_every=2, **UNLIKE.get(name, {})).model_dump(mode="json", exclude_none=True)
    sizes = {"segment_length": 4, "width": 16, "heads": 2, "layers": 2}
    fields = agent_class(name).Config.model_fields
    values["agent_options"] = {option: size for option, size in sizes.items() if option in fields}
    values["evaluation"] |= {"eval_every": 2, "eval_episodes": 2}
    config = make_config(values | {"agent": name})
    assert isinstance(config, OfflineRun)
    return config


def plain(config: RunConfig) -> Values:
    return config.model_dump(mode="json", exclude_none=True)


def sharded(config: RunConfig, count: int = 2) -> RunConfig:
    """Return the same run in sharded processes."""
    values = plain(config)
    values["training"] |= {"num_nodes": count, "strategy": "fsdp"}
    return make_config(values)


def tensors(run: Path, name: str = "last") -> Mapping[str, Tensor]:
    return read_checkpoint(path_of(run, name)).tensors


def assert_equal(run: Path, other: Path) -> None:
    for name in ("last", "best"):
        one, two = tensors(run, name), tensors(other, name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert header(path_of(run, name)) == header(path_of(other, name))
    assert metrics(run) == metrics(other)


def assert_close(run: Path, other: Path, rtol: float = 1e-3, atol: float = 2e-4) -> None:
    one, two = tensors(run), tensors(other)
    assert one.keys() == two.keys()
    for key, value in one.items():
        difference = (two[key] - value).abs()
        assert (difference <= atol + rtol * value.abs()).all(), f"{key} differs by {difference.max()}"


def learn_alike(agents: Sequence[str], folder: Path) -> None:
    """Fail unless two sharded processes learn what one process does, up to rounding."""
    configs = {name: short(name) for name in agents}
    for name, config in configs.items():
        train(config, folder / "one" / name)
    given = {name: plain(sharded(config)) for name, config in configs.items()}
    assert in_processes(2, train_all, given, folder / "two") == [0, 0]
    for name in agents:
        one, two = folder / "one" / name, folder / "two" / name
        assert len(shards_of(two)) == 1
        assert_close(one, two)
        for line, other in zip(metrics(one), metrics(two), strict=True):
            assert other == pytest.approx(line, rel=2e-3, abs=1e-6)


def train_all(configs: Mapping[str, Values], runs: Path) -> None:
    for name, values in configs.items():
        train(make_config(values), runs / name)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    learn_alike(["rate", "elmur", "rmt"], tmp_path)


@pytest.mark.slow  # 20 CPU s
def test_two_processes_learn_what_one_does_with_every_agent(tmp_path: Path) -> None:
    learn_alike([name for name in OFFLINE if name not in ("rate", "elmur", "rmt")], tmp_path)


def test_a_sharded_run_is_resumed_bit_for_bit_after_it_was_killed(tmp_path: Path) -> None:
    """And by one process too, or by three; and it's evaluated like any other run."""
    config = plain(sharded(tiny(updates=6, save_every=4, data={"batch_size": 6, "feed": "streams"}, **AGES)))
    runs = tmp_path / "whole", tmp_path / "killed"
    codes = in_processes(2, train_and_die, config, *runs)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0, "the other process ends with the first"
    whole, killed = runs
    assert header(path_of(killed))["update"] == 4
    for name, count in {"one": 1, "three": 3}.items():
        shutil.copytree(killed, tmp_path / name)
        write_config(sharded(make_config(config), count), tmp_path / name)
    assert in_processes(2, resume, killed) == [0, 0]
    assert_equal(killed, whole)
    assert shards_of(killed) == shards_of(whole), "whose names are hashes of their contents"
    resume(tmp_path / "one")
    assert in_processes(3, resume, tmp_path / "three") == [0, 0, 0]
    for name, further in {"one": 0, "three": 2}.items():
        assert_close(tmp_path / name, whole)
        assert len(shards_of(tmp_path / name)) == further
    main(["evaluate", str(whole), "--episodes", "2"])
    assert (whole / "evaluation.json").exists()


def shards_of(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("last.*-of-*.safetensors"))


def train_and_die(config: Values, whole: Path, killed: Path) -> None:
    """Train a run to its end; then the same run again, until the update behind its first checkpoint."""

    def die(update: int, metrics: Any) -> None:
        if update == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    train(make_config(config), whole)
    train(make_config(config), killed, die)
