"""The package's functions train, evaluate and load do what the command line does, and explain what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl.acting.collect import collect
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.registry import load_task
from rmt_rl.runs.folder import read_config
from tests.test_cli import TINY
from tests.tiny import assert_same_run, tensors, work_folder

OPTIONS: dict[str, Any] = {  # those of TINY
    "env_options": {"corridor_length": (1, 10)},
    "agent_options": {"width": 16, "segment_length": 4},
    "collect_episodes": 40,
    "batch_size": 8,
    "eval_episodes": 4,
    "eval_every": 4,
    "log_every": 2,
    "save_every": 4,
    "accelerator": "cpu",
}
ONLINE: dict[str, Any] = {
    "total_timesteps": 64,
    "n_envs": 2,
    "eval_episodes": 2,
    "agent_options": {"n_steps": 16, "batch_size": 16},
}
MINE = '''
from rmt_rl.agents.bc import AGENT as Base
from rmt_rl.data.feeds.windows import FEED as Windows
from rmt_rl.envs import tmaze


class Maze:
    """A T-Maze."""

    ID, Config, make, Expert = "face_on_trial/Maze-v0", tmaze.Config, staticmethod(tmaze.make), tmaze.Expert


class Mine(Base):
    """Behaviour cloning."""


class Feed(Windows):
    """Windows."""


class Lines:
    """Count the lines."""

    def __init__(self, run, settings, update):
        self.path = run / "lines.txt"

    def write(self, update, metrics):
        with self.path.open("a") as file:
            file.write("one\\n")

    def close(self):
        pass
'''


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with data sets and a run of their own."""
    with work_folder(tmp_path_factory) as folder:
        rmt_rl.train("tmaze", "rate", "run", updates=6, **rate())
        yield folder


def rate() -> dict[str, Any]:
    return OPTIONS | {"agent_options": {**OPTIONS["agent_options"], "heads": 2}}


def assert_same_weights(agent: torch.nn.Module, run: Path) -> None:
    saved = tensors(run / "last.safetensors")
    for name, value in agent.state_dict().items():
        assert torch.equal(value, saved[f"model/{name}"]), name


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["rmt_rl", "rmt_rl.acting.evaluate_agent", "rmt_rl.cli.commands.evaluate"])
def test_importing_it_imports_no_torch(module: str) -> None:
    done = python(f"import sys, {module}; print('torch' in sys.modules, 'rmt_rl.envs.tmaze' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_train_is_the_command_bit_for_bit() -> None:
    ours = ["--ageing", "2", "--ageing-from", "0.17", "--feed", "streams", "--segments", "2", "--logger", "--seed", "3"]
    command = ["train", "tmaze", "rate", *TINY, "--agent.heads", "2", *ours, "--updates", "6", "--out", "by-command"]
    assert main(command) == 0
    more: dict[str, Any] = {"ageing": 2, "ageing_from": 0.17, "feed": "streams", "segments": 2, "logger": ()}
    agent = rmt_rl.train("tmaze", "rate", Path("by-function"), seed=3, updates=6, **more, **rate())
    assert_same_run(Path("by-command"), Path("by-function"))
    assert read_config(Path("by-command")) == read_config(Path("by-function"))
    assert_same_weights(agent, Path("by-command"))
    assert not agent.training


def test_an_agent_that_learns_by_acting_is_trained_bit_for_bit_as_by_the_command() -> None:
    flags = ["--total-timesteps", "64", "--n-envs", "2", "--eval-episodes", "2"]
    flags += ["--agent.n-steps", "16", "--agent.batch-size", "16"]
    assert main(["train", "CartPole-v1", "ppo", *flags, "--out", "ppo-by-command"]) == 0
    agent = rmt_rl.train("CartPole-v1", "ppo", "ppo", **ONLINE)
    assert_same_run(Path("ppo-by-command"), Path("ppo"))
    assert_same_weights(agent, Path("ppo-by-command"))
    assert rmt_rl.evaluate(agent, "CartPole-v1", episodes=3).mean_return > 5


def test_a_data_set_is_named_as_on_the_command_line() -> None:
    identity = collect("tmaze", {"corridor_length": (1, 10)}, episodes=40, seed=7)
    given = {"alone": identity, "listed": [identity]}
    for name, dataset in given.items():
        rmt_rl.train("tmaze", "bc", name, dataset=dataset, updates=2, **OPTIONS)
    assert main(["train", "tmaze", "bc", *TINY, "--dataset", identity, "--updates", "2", "--out", "data"]) == 0
    for name in given:
        assert read_config(Path(name)) == read_config(Path("data"))
        assert_same_run(Path(name), Path("data"))


def test_evaluate_is_the_command_and_writes_nothing() -> None:
    flags = ["--vary", "corridor_length=5", "--episodes", "8", "--seed", "3", "--num-envs", "4"]
    assert main(["evaluate", "run", *flags]) == 0
    path = Path("run/evaluation.json")
    written = json.loads(path.read_text())["results"][-1]
    path.unlink()
    found = rmt_rl.evaluate("run", corridor_length=5, episodes=8, seed=3, num_envs=4)
    assert json.loads(json.dumps(found.to_json())) | {"seconds": 0} == written | {"seconds": 0}
    agent = rmt_rl.load("run")
    again = rmt_rl.evaluate(agent, "tmaze", corridor_length=5, episodes=8, seed=3, num_envs=4)
    assert (again.episodes, again.options) == (found.episodes, {"corridor_length": 5})
    assert not path.exists()


def test_a_run_is_evaluated_in_its_own_task_with_references() -> None:
    found = rmt_rl.evaluate(Path("run"), episodes=4)
    assert found.options == {}
    assert len(found.episodes) == 4
    assert max(one.length for one in found.episodes) <= 12, "with the run's env_options, not the default of 1 to 88"
    assert found.normalised_return is not None


def test_actions_are_sampled_and_returns_aimed_at() -> None:
    given: dict[str, Any] = {"corridor_length": 1, "episodes": 40}
    sampled = [rmt_rl.evaluate("run", deterministic=False, target_return=0.5, **given) for _ in range(2)]
    assert sampled[0].episodes == sampled[1].episodes
    assert (sampled[0].deterministic, sampled[0].target_return) == (False, 0.5)
    assert sampled[0].episodes != rmt_rl.evaluate("run", **given).episodes


def test_a_run_is_evaluated_in_another_environment() -> None:
    with pytest.raises(UsageError, match=r"env 'CartPole-v1' has action_space .*, but the agent has .*; choose"):
        rmt_rl.evaluate("run", "CartPole-v1")
    found = rmt_rl.evaluate("run", "tmaze", episodes=4)
    assert found.references is None
    assert max(one.length for one in found.episodes) > 12, "with the environment's own defaults"


def test_names_are_the_user_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "face_on_trial.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)
    names: dict[str, Any] = {"feed": "face_on_trial:Feed", "logger": ["tensorboard", "face_on_trial:Lines"]}
    agent = rmt_rl.train("face_on_trial:Maze", "face_on_trial:Mine", "mine", updates=2, **names, **OPTIONS)
    assert type(agent).__name__ == "Mine"
    assert Path("mine/lines.txt").read_text() == "one\n"
    assert rmt_rl.evaluate("mine", episodes=2).success_rate is not None
    assert rmt_rl.evaluate(agent, "face_on_trial:Maze", episodes=2).success_rate is not None
    code = "import rmt_rl; rmt_rl.evaluate('mine', episodes=2)"
    refused = python(code)
    assert "module 'face_on_trial' isn't imported, and a name in a file imports none" in refused.stderr


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "option": ({"update": 5}, r"unknown option update=5 \(known: seed, .*updates.*\); did you mean 'updates'\?"),
    "of the agent": ({"width": 5}, r"width=5 is one of agent_options: give agent_options=\{'width': 5\}"),
    "of the env": ({"corridor_length": 5}, r"corridor_length=5 is one of env_options: give env_options="),
    "a section": ({"training": {"updates": 5}}, r"unknown option training="),
    "agent option": ({"agent_options": {"widht": 5}}, r"unknown option agent_options.widht=5 .*mean 'width'"),
    "env option": ({"env_options": {"length": 5}}, r"unknown option env_options.length=5 .*mean 'oracle_length'"),
    "value": ({"updates": 0}, r"training.updates=0: .*greater than or equal to 1; expected optimiser steps"),
    "seed": ({"seed": -1}, r"seed=-1: "),
    "together": ({"depth": 2}, r"depth=2 is for a truncated gradient"),
    "feed": ({"feed": "stream"}, r"unknown feed 'stream' .*did you mean 'streams'"),
    "logger": ({"logger": "tensorbord"}, r"unknown logger 'tensorbord' .*did you mean 'tensorboard'"),
    "no logger": ({"logger": None}, r"logger=None: "),
    "data set": ({"dataset": "no/such-v0"}, r"data set 'no/such-v0' is not below"),
    "module": ({"feed": "absent_on_trial:Feed"}, r"module 'absent_on_trial' can't be imported"),
    "folder": ({"out": "run"}, r"out=run holds a run already"),
    "env": ({"env": "tmase"}, r"unknown env 'tmase' .*did you mean 'tmaze'"),
    "agent": ({"agent": "rade"}, r"unknown agent 'rade' .*did you mean 'rate'"),
    "env object": ({"env": object()}, r"env=<object .*: give a name"),
    "agent object": ({"agent": 3}, r"agent=3: give a name"),
    "online": ({"env": "CartPole-v1", "agent": "ppo", "updates": 5}, r"unknown option updates=5 .*total_timesteps"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_train_explains_what_it_refuses(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"env": "tmaze", "agent": "rate", "out": "refused"} | change
    with pytest.raises(UsageError, match=message):
        rmt_rl.train(**given)
    assert not Path("refused").exists()


def test_evaluate_explains_what_it_refuses() -> None:
    agent = rmt_rl.load("run")
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (agent, {}, "an agent doesn't know its environment; name it"),
        (agent, {"env": "tmase"}, "unknown env 'tmase' .*did you mean 'tmaze'"),
        (agent, {"env": load_task("tmaze").make()}, "env=<.*: give a name"),
        (agent, {"env": "tmaze", "episodes": 0}, "episodes=0: "),
        (agent, {"env": "tmaze", "corridor_lenght": 9}, "unknown option corridor_lenght=9 .*mean 'corridor_length'"),
        ("run", {"corridor_lenght": 9}, "unknown option corridor_lenght=9 .*mean 'corridor_length'"),
        ("run", {"corridor_length": 0}, "corridor_length=0: "),
        ("run", {"num_envs": 0}, "num_envs=0: "),
        ("run", {"ambiguous_position": False}, "with ambiguous_position=False, .* has observation_space"),
        ("nowhere", {}, "run nowhere is no folder"),
        (np.zeros(3), {"env": "tmaze"}, "give the folder of a run, or an agent"),
    ]
    for one, options, message in refused:
        with pytest.raises(UsageError, match=message):
            rmt_rl.evaluate(one, **options)
    bc = rmt_rl.train("tmaze", "bc", "bc", updates=1, **OPTIONS)
    with pytest.raises(UsageError, match=r"target_return=0.5: this agent isn't conditioned on returns"):
        rmt_rl.evaluate(bc, "tmaze", target_return=0.5)


def test_load_takes_the_best_checkpoint_and_a_path() -> None:
    best = rmt_rl.load(Path("run"), "best")
    saved = tensors(Path("run/best.safetensors"))
    assert all(torch.equal(value, saved[f"model/{name}"]) for name, value in best.state_dict().items())
