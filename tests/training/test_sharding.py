"""Fully sharded training: it learns what one process does, and its checkpoints fit any number of processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rmt_rl import signals
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.agent import Agent
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, load_task, names
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.folder import write_config
from rmt_rl.runs.options import OfflineRun, RunConfig, make_config
from rmt_rl.training.loop import Loop, resume, train
from tests.nodes import in_processes
from tests.tiny import Values, header, known_options, metrics, started, tiny, work_folder

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
    values["agent_options"] = known_options(name, {"segment_length": 4, "width": 16, "heads": 2, "layers": 2})
    values["evaluation"] |= {"eval_every": 2, "eval_episodes": 2}
    return offline(values | {"agent": name})


def plain(config: RunConfig) -> Values:
    return config.model_dump(mode="json", exclude_none=True)


def offline(values: Values) -> OfflineRun:
    config = make_config(values)
    assert isinstance(config, OfflineRun)
    return config


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


def test_a_process_keeps_its_half_alone(tmp_path: Path) -> None:
    """Half of the weights, of their gradients and of both moments, but for what has no two rows to divide."""
    config = sharded(tiny(updates=1, agent_options={"segment_length": 4, "width": 64, "layers": 2}))
    assert in_processes(2, measure, plain(config), tmp_path) == [0, 0]
    for rank in range(2):
        shares = json.loads((tmp_path / f"{rank}.json").read_text())
        assert shares == {"weights": pytest.approx(0.5, abs=0.01), "adam": pytest.approx(0.5, abs=0.01)}


def measure(config: Values, folder: Path) -> None:
    """Make an update; write the share of all bytes that this process has."""
    learner = started(offline(config), folder)
    learner.advance()
    weights = list(learner.model.parameters())
    shares = {"weights": share([*weights, *(weight.grad for weight in weights)])}
    shares["adam"] = share([value for state in learner.optimizer.state.values() for value in state.values()])
    (folder / f"{learner.processes.rank}.json").write_text(json.dumps(shares))


def share(tensors: Sequence[Tensor | None]) -> float:
    given = [tensor for tensor in tensors if tensor is not None]
    here = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in given]
    return sum(tensor.numel() for tensor in here) / sum(tensor.numel() for tensor in given)


def test_a_signal_in_one_process_stops_the_evaluation_of_all(tmp_path: Path) -> None:
    config = sharded(tiny(updates=2, evaluation={"eval_every": 1}))
    run = tmp_path / "run"
    assert in_processes(2, stop_one, plain(config), run) == [0, 0]
    saved = header(path_of(run))
    assert (saved["update"], saved["progress"]["made_before"]) == (1, 0), "its evaluation is still to be made"
    assert not path_of(run, "best").exists()


def stop_one(config: Values, run: Path) -> None:
    """Train; the second process gets a signal while both evaluate."""
    learner = started(offline(config), run)

    def evaluation(agent: Agent) -> Evaluation:
        if not learner.processes.first:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(agent, load_task("tmaze"), learner.config.env_options, 2, 0)

    with signals.heard():
        Loop(learner, run, learner.config.schedule, {}, evaluation).run()


def test_what_cannot_be_sharded_is_told() -> None:
    with pytest.raises(UsageError, match=r"compile=True .* strategy='fsdp'"):
        tiny(strategy="fsdp", compile=True)


def test_one_process_has_nothing_to_shard(tmp_path: Path) -> None:
    train(tiny("bc", updates=2), tmp_path / "ddp")
    train(tiny("bc", updates=2, strategy="fsdp"), tmp_path / "fsdp")
    assert_equal(tmp_path / "ddp", tmp_path / "fsdp")
