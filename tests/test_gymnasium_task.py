"""Training on a data set alone, in the environment that its metadata tell of."""

from __future__ import annotations

import json
import re
import sys
from contextlib import closing
from pathlib import Path

import gymnasium
import pytest

from rmt_rl import registry
from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, RandomPolicy, Share
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.cli import main
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.gymnasium_task import GymnasiumTask
from rmt_rl.runs.evaluation import read_evaluation
from rmt_rl.runs.folder import read_config

SMALL = [
    "--agent.segment-length",
    "4",
    "--agent.width",
    "16",
    "--agent.heads",
    "2",
    "--updates",
    "2",
    "--batch-size",
    "4",
]
QUICK = [*SMALL, "--eval-episodes", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path


def random_data(env: str) -> str:
    return collect(env, {}, episodes=5, seed=0, behaviour=Behaviour((Share("random"),)))


@pytest.mark.parametrize("order", ["--dataset {} rate {}", "rate --dataset {} {}", "--seed 0 --dataset {} rate {}"])
def test_a_data_set_alone_tells_the_environment(order: str) -> None:
    identity = random_data("Pendulum-v1")
    assert main(["train", *order.format(identity, " ".join(QUICK)).split(), "--out", "run"]) == 0
    config = read_config(Path("run"))
    assert (config.env, dataset_ids(config)) == ("Pendulum-v1", (identity,))
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    record = read_evaluation(Path("run"))
    assert record is not None
    assert [episode["length"] for episode in record["results"][0]["episodes"]] == [200, 200], "the registered limit"


def test_our_own_environments_are_found_with_their_options() -> None:
    identity = collect("tmaze", {"corridor_length": 7}, episodes=5, seed=0)
    assert main(["train", "--dataset", identity, "rate", *QUICK, "--out", "run"]) == 0
    config = read_config(Path("run"))
    assert (config.env, config.env_options.model_dump()["corridor_length"]) == ("tmaze", 7)


def test_several_data_sets_and_their_wrappers() -> None:
    def make() -> gymnasium.Env[object, object]:
        return gymnasium.wrappers.FrameStackObservation(gymnasium.make("CartPole-v1", max_episode_steps=9), 3)

    env = make()
    assert env.spec is not None
    for name in ("one", "two"):
        task = GymnasiumTask("CartPole-v1")
        lanes = make_vec_env(task, {"spec": env.spec.to_json()}, 2)  # type: ignore[arg-type]
        policy = RandomPolicy(env.action_space, seed=0)
        write_dataset(
            f"stacked/{name}-v0",
            trajectories(rollout(policy, lanes, 4, seed=0), 2),
            env_spec=env.spec,
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm_name="random",
            description="Stacked.",
        )
    assert main(["train", "--dataset", "stacked/one-v0", "stacked/two-v0", "rate", *QUICK, "--out", "run"]) == 0
    config = read_config(Path("run"))
    assert dataset_ids(config) == ("stacked/one-v0", "stacked/two-v0")
    remade = registry.load_task(config.env).make(**config.env_options.model_dump(exclude_unset=True))
    assert remade.observation_space == env.observation_space
    assert [remade.reset(seed=3)[0].shape, remade.spec.max_episode_steps] == [(3, 4), 9]  # type: ignore[union-attr]


def test_data_sets_of_different_environments_want_one_named(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ((1, 3), (2, 5))
    ids = [collect("tmaze", {"corridor_length": length}, 8, seed=0) for length in lengths]
    assert main(["train", "rate", "--dataset", *ids, *QUICK, "--out", "run"]) == 2
    assert f"say where to act: rmt-rl train ENV rate --dataset {' '.join(ids)}" in capsys.readouterr().err
    assert not Path("run").exists()
    assert main(["train", "tmaze", "rate", "--dataset", *ids, *QUICK, "--out", "run"]) == 0


def test_a_spec_may_not_name_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    spec = json.loads(gymnasium.spec("CartPole-v1").to_json())
    task = GymnasiumTask("CartPole-v1")
    with pytest.raises(UsageError, match=r"spec names CartPole-v1 by os:system, but .* is registered by"):
        task.make(spec=json.dumps(spec | {"entry_point": "os:system"}))
    wrapper = {"name": "x", "entry_point": "os:system", "kwargs": {}}
    with pytest.raises(UsageError, match=r"wrappers \['os:system'\]"):
        task.make(spec=json.dumps(spec | {"additional_wrappers": [wrapper]}))
    with pytest.raises(UsageError, match="is no EnvSpec"):
        task.make(spec="{}")


def test_the_module_that_registers_an_id_may_stand_before_it() -> None:
    pytest.importorskip("ale_py")
    task = GymnasiumTask("ale_py:ALE/Breakout-v5")
    env = task.make()
    assert env.spec is not None
    assert registry.task_of_spec(env.spec)[0] in ("ALE/Breakout-v5", "ale_py:ALE/Breakout-v5")
    env.close()
    with pytest.raises(UsageError, match="env 'minigrid:Maze-v0' is not known to Gymnasium: Environment `Maze`"):
        GymnasiumTask("minigrid:Maze-v0")
    with pytest.raises(UsageError, match=r"module 'antigravity' isn't imported, .* name it yourself behind --import"):
        GymnasiumTask("antigravity:Maze-v0")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "{}"], "give a data set's id and an agent: rmt-rl train --dataset ID AGENT"),
        (["--dataset={}"], "give a data set's id and an agent"),
        (["--dataset", "{}", "rat"], "unknown agent 'rat' .*did you mean 'rate'"),
        (["rat", "--dataset={}"], "unknown agent 'rat' .*did you mean 'rate'"),
        (["--dataset", "{}", "ppo"], "agent 'ppo' learns by acting, not from data sets: rmt-rl train ENV ppo"),
    ],
)
def test_what_is_missing_beside_a_data_set_is_told(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = random_data("Pendulum-v1")
    assert main(["train", *(each.format(identity) for each in arguments)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_data_set_s_time_limit_is_kept_and_its_render_mode_is_not() -> None:
    plain = gymnasium.make("rmt_rl/TMaze-v0", corridor_length=5, render_mode="rgb_array")
    limited = gymnasium.make("rmt_rl/TMaze-v0", corridor_length=5, max_episode_steps=3)
    assert plain.spec is not None
    assert limited.spec is not None
    assert registry.task_of_spec(plain.spec) == ("tmaze", {"corridor_length": 5})
    name, options = registry.task_of_spec(limited.spec)
    with closing(registry.load_task(name).make(**options)) as env:
        assert env.spec is not None
        assert env.spec.max_episode_steps == 3


def test_a_data_set_can_not_have_a_module_imported() -> None:
    spec = gymnasium.envs.registration.EnvSpec("Planted-v0", entry_point="antigravity:Env")
    with pytest.raises(UsageError, match=r"env 'Planted-v0' isn't registered with Gymnasium\. .* if you know"):
        registry.task_of_spec(spec)
    assert "antigravity" not in sys.modules


def test_an_unknown_id_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "absent_module:Maze-v0", "rate"]) == 2
    assert "module 'absent_module' can't be imported (No module named 'absent_module')" in capsys.readouterr().err
    assert main(["train", "CartPool-v1", "rate"]) == 2
    error = capsys.readouterr().err
    assert "env 'CartPool-v1' is not known to Gymnasium" in error
    assert "registers it, name the module behind --import" in error


def test_a_data_set_without_an_environment_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    env = gymnasium.make("CartPole-v1")
    lanes = make_vec_env(GymnasiumTask("CartPole-v1"), {}, 1)  # type: ignore[arg-type]
    write_dataset(
        "bare/random-v0",
        trajectories(rollout(RandomPolicy(env.action_space, 0), lanes, 2, seed=0), 1),
        env_spec=None,
        observation_space=env.observation_space,
        action_space=env.action_space,
        algorithm_name="random",
        description="Bare.",
    )
    assert main(["train", "--dataset", "bare/random-v0", "rate"]) == 2
    assert "doesn't say which environment it is from; give ENV and AGENT" in capsys.readouterr().err
    assert main(["train", "CartPole-v1", "rate", "--dataset", "bare/random-v0", *QUICK, "--out", "run"]) == 0
