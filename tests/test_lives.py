"""Lives: several episodes of one task, played as one episode, in every environment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rmt_rl import registry
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.histories import Histories
from rmt_rl.acting.policies import EachEpisodeAnew, make_expert
from rmt_rl.acting.rollout import make_vec_env
from rmt_rl.cli import main
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.lives import EPISODE_OF_LIFE, EPISODE_RETURN, EPISODE_SUCCESS
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.success import SUCCESS
from rmt_rl.training.datasets import declared_labels, open_data
from rmt_rl.trees import map_leaves
from rmt_rl.wrappers import Lifetime, VectorLifetime
from tests.tiny import tiny, work_folder

NATIVE = [
    "associative_retrieval",
    "bandit",
    "color_cubes",
    "dark_key_to_door",
    "dark_room",
    "endless_tmaze",
    "tmaze",
    "tmaze_without_hint",
]
SHORT = {"tmaze": {"corridor_length": (1, 6)}, "associative_retrieval": {"episode_length": (3, 6)}}
TOLD = (EPISODE_OF_LIFE, EPISODE_RETURN, EPISODE_SUCCESS, SUCCESS)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as path:
        yield path


def played(env: VectorEnv[Any, Any, Any], steps: int) -> list[Any]:
    """Return all that the environments tell in response to random actions; of infos those that are reported."""
    told: list[Any] = [env.reset(seed=3)[0]]
    env.action_space.seed(3)
    for _ in range(steps):
        *step, infos = env.step(env.action_space.sample())
        masks = {name: infos.get(f"_{name}", np.zeros(env.num_envs, bool)) for name in TOLD}
        values = {name: np.asarray(infos[name])[masks[name]] for name in TOLD if name in infos}
        told.append((step, masks, {name: value for name, value in values.items() if value.size}))
    env.close()
    return told


@pytest.mark.parametrize("name", NATIVE)
def test_a_vector_of_lives_equals_single_lives(name: str) -> None:
    task = registry.load_task(name)
    options = {"lifetime": 3} | SHORT.get(name, {})
    native = make_vec_env(task, options, 4)
    assert isinstance(native, VectorLifetime)
    single = SyncVectorEnv([lambda: make_env(task, options)] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert native.observation_space == single.observation_space
    assert data_equivalence(played(native, 250), played(single, 250))


def lives_of(env: gymnasium.Env[Any, Any], seed: int | None, lives: int) -> list[list[Any]]:
    """Return the first observations of all episodes of some lives; each episode is played by the same actions."""
    firsts = []
    for _ in range(lives):
        observation, _ = env.reset(seed=seed)
        first = [observation["observation"]]
        env.action_space.seed(0)
        is_over, seed = False, None
        while not is_over:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated
            if observation["episode_start"]:
                first.append(observation["observation"])
        firsts.append(first)
    return firsts


@pytest.mark.parametrize("seed", [7, None])
def test_the_task_of_any_environment_stays_during_a_life_and_changes_then(seed: int | None) -> None:
    one, other = lives_of(Lifetime(gymnasium.make("CartPole-v1"), 4), seed, 2)
    assert len(one) == len(other) == 4
    assert all(data_equivalence(one[0], each) for each in one)
    assert all(data_equivalence(other[0], each) for each in other)
    assert not np.array_equal(one[0], other[0])


def test_lives_keep_gymnasiums_interface_and_tell_of_their_episodes() -> None:
    with pytest.warns(UserWarning, match="different from the unwrapped version|infinity"):
        check_env(Lifetime(gymnasium.make("CartPole-v1").unwrapped, 2), skip_render_check=True)
    env = Lifetime(gymnasium.make("rmt_rl/TMaze-v0", corridor_length=1), 2)
    first, _ = env.reset(seed=1)
    goal = first["observation"][1]
    assert (first["previous_reward"], first["episode_start"]) == (0, 1)
    env.step(0)
    again, reward, terminated, truncated, info = env.step(1 if goal > 0 else 3)
    assert (reward, terminated, truncated) == (1, False, False)
    assert info == {EPISODE_OF_LIFE: 0, EPISODE_RETURN: 1.0, EPISODE_SUCCESS: True}
    assert (again["previous_reward"], again["episode_start"], again["observation"][1]) == (1, 1, goal)
    walking, *_ = env.step(0)
    assert (walking["previous_reward"], walking["episode_start"]) == (0, 0)
    _, reward, terminated, _, info = env.step(3 if goal > 0 else 1)
    assert (reward, terminated) == (0, True)
    assert info == {EPISODE_OF_LIFE: 1, EPISODE_RETURN: 0.0, EPISODE_SUCCESS: False, SUCCESS: False}


def test_a_new_episode_of_a_life_has_its_own_action_mask() -> None:
    env = Lifetime(gymnasium.make("Taxi-v4", max_episode_steps=5), 3)
    _, first = env.reset(seed=1)
    env.action_space.seed(1)
    steps = [env.step(env.action_space.sample()) for _ in range(10)]
    masks = [info["action_mask"] for observation, *_, info in steps if observation["episode_start"]]
    assert len(masks) == 2
    assert all(np.array_equal(mask, first["action_mask"]) for mask in masks)


def test_bad_lifetimes_are_refused() -> None:
    with pytest.raises(UsageError, match="episodes=0: a life has at least 1 episode"):
        Lifetime(gymnasium.make("CartPole-v1"), 0)
    with pytest.raises(UsageError, match=r"lifetime=-1: .*episodes of the same task that make one life"):
        make_env(registry.load_task("tmaze"), {"lifetime": -1})
    made = [lambda: gymnasium.make("CartPole-v1")]
    with (
        closing(SyncVectorEnv(made, autoreset_mode=AutoresetMode.NEXT_STEP)) as vector,
        pytest.raises(UsageError, match="has no method begin_again; wrap each of its environments in Lifetime"),
    ):
        VectorLifetime(vector, 2)
    lanes = registry.load_task("tmaze").make()
    with pytest.raises(gymnasium.error.ResetNeeded):
        lanes.reset(options={"same_task": True})
    lanes.reset(seed=0)
    with pytest.raises(UsageError, match="seed=1: the same task needs no seed"):
        lanes.reset(seed=1, options={"same_task": True})


def by_episode(policy: Any, name: str, options: dict[str, Any], lives: int = 200) -> list[float]:
    """Return a policy's mean return in each episode of a life."""
    evaluation = evaluate(policy, registry.load_task(name), options, lives, seed=0)
    return [each["mean"] for each in evaluation.return_by_episode_of_life]


def hiding_cells(goals: str) -> Any:
    """Return the cells where the goal may be."""
    config: Any = registry.load_task("dark_room").Config
    return config(goals=goals).hiding_cells


@pytest.mark.parametrize("goals", ["train", "test"])
def test_the_dark_rooms_expert_searches_four_episodes_and_then_goes_straight(goals: str) -> None:
    expert = make_expert(registry.load_task("dark_room"), {}, seed=0)
    returns = by_episode(expert, "dark_room", {"goals": goals})
    cells = hiding_cells(goals)
    distances = np.abs(cells % 9 - 4) + np.abs(cells // 9 - 4)
    best = np.mean(21 - distances)
    assert returns[:4] == sorted(returns[:4])
    assert returns[0] < 0.3 * best
    assert returns[4:] == pytest.approx([best] * 6, rel=0.05)
    without = by_episode(EachEpisodeAnew(expert), "dark_room", {"goals": goals})
    assert max(without) < 0.5 * best


@pytest.mark.parametrize("goals", ["train", "test"])
def test_the_expert_with_key_and_door_searches_each_once(goals: str) -> None:
    expert = make_expert(registry.load_task("dark_key_to_door"), {}, seed=0)
    returns = by_episode(expert, "dark_key_to_door", {"goals": goals})
    assert returns == sorted(returns)
    assert returns[0] < 1
    assert returns[4:] == [2] * 4
    without = by_episode(EachEpisodeAnew(expert), "dark_key_to_door", {"goals": goals})
    assert max(without) < 1


def test_the_t_maze_without_a_hint_is_a_guess_once() -> None:
    expert = make_expert(registry.load_task("tmaze_without_hint"), {}, seed=0)
    returns = by_episode(expert, "tmaze_without_hint", {})
    assert 0.4 < returns[0] < 0.6
    assert returns[1:] == [1] * 9


def test_the_bandits_expert_explores_and_then_keeps_to_a_good_arm() -> None:
    expert = make_expert(registry.load_task("bandit"), {}, seed=0)
    returns = by_episode(expert, "bandit", {}, lives=400)
    best = 5 / 6  # the mean of the largest of five uniform numbers
    assert np.mean(returns[:5]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(returns[50:]) > 0.94 * best
    assert np.mean(returns) > 0.9 * best


@pytest.mark.parametrize("name", ["bandit", "dark_key_to_door", "dark_room", "tmaze_without_hint"])
def test_experts_of_lives_are_told_of_other_actions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", name, "--episodes", "4", "--noise", "0.5"]) == 0
    noisy = minari.load_dataset(capsys.readouterr().out.strip())
    assert main(["collect", name, "--episodes", "4", "--policy", "random"]) == 0
    random = minari.load_dataset(capsys.readouterr().out.strip())
    returns = [np.mean([episode.rewards.sum() for episode in data]) for data in (noisy, random)]
    assert returns[0] > returns[1]


def test_held_out_goals_are_others() -> None:
    train, test, every = (set(hiding_cells(goals)) for goals in ("train", "test", "all"))
    assert not train & test
    assert train | test == every
    assert len(every) == 80
    assert len(test) == 16


def test_an_expert_of_single_episodes_plays_lives() -> None:
    for name in ("endless_tmaze", "tmaze"):  # whose experts remember cues, of which those of earlier episodes are void
        task, options = registry.load_task(name), {"lifetime": 3}
        evaluation = evaluate(make_expert(task, options, seed=0), task, options, 50, seed=0)
        assert evaluation.success_rate == 1
        assert len(evaluation.return_by_episode_of_life) == 3


TINY = ("--updates", "2", "--segments", "2", "--batch-size", "4", "--eval-every", "2", "--eval-episodes", "2")


def test_lives_are_collected_learnt_from_and_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "CartPole-v1", "--policy", "random", "--episodes", "4", "--env.lifetime", "2"]) == 0
    identity = capsys.readouterr().out.strip()
    data = minari.load_dataset(identity)
    with closing(data.recover_environment()) as env:
        assert isinstance(env, Lifetime)
    starts = [episode.observations["episode_start"].sum() for episode in data]
    assert starts == [2] * 4
    assert main(["train", "--dataset", identity, "bc", *TINY, "--out", "cartpole"]) == 0
    assert dict(read_config(Path("cartpole")).env_options)["lifetime"] == 2

    assert main(["train", "dark_room", "rate", "--collect-episodes", "8", *TINY, "--out", "dark"]) == 0
    assert main(["evaluate", "dark", "--episodes", "3", "--vary", "lifetime=2,20"]) == 0
    short, long = read_results(Path("dark"))
    assert [len(each["return_by_episode_of_life"]) for each in (short, long)] == [2, 20]
    assert len(long["episodes"][0]["returns_of_life"]) == 20
    assert short["mean_length"] == 40
    json.dumps(long)


CORE = [name for name in registry.names("envs") if registry.constant("envs", name, "EXTRA") is None]


@pytest.mark.parametrize("name", CORE)
def test_episodes_of_lives_are_labelled_as_single_ones(name: str) -> None:
    task: Any = registry.load_task(name)
    options = {"lifetime": 2} | SHORT.get(name, {})
    data = {"collect_episodes": 2, "strict": True}
    config = make_config({"env": name, "agent": "bc", "env_options": options, "data": data})
    assert isinstance(config, OfflineRun)
    store = open_data(config)
    if hasattr(task, "LIFETIME"):
        return
    life: Any = store.episode(0)
    second = int(np.flatnonzero(life.observations["episode_start"])[1])
    single = Trajectory(
        map_leaves(lambda leaf: leaf[second:], life.observations["observation"]),
        map_leaves(lambda leaf: leaf[second:], life.actions),
        life.rewards[second:],
        life.terminations[second:],
        life.truncations[second:],
    )
    for label in declared_labels(task):
        assert np.array_equal(getattr(life, label)[second:], getattr(task, label)(single))


def test_single_episodes_of_tasks_of_lives_are_collected_learnt_from_and_evaluated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["collect", "dark_room", "--episodes", "4", "--env.lifetime", "0"]) == 0
    identity = capsys.readouterr().out.strip()
    collected_anew = ["dark_room", "bc", "--env.lifetime", "None", "--collect-episodes", "4"]
    for given in (["--dataset", identity, "bc"], collected_anew):
        run = Path(f"single-{len(given)}")
        assert main(["train", *given, *TINY, "--out", str(run)]) == 0
        assert main(["evaluate", str(run), "--episodes", "3"]) == 0
        assert dict(read_config(run).env_options)["lifetime"] == 0
        (result,) = read_results(run)
        assert result["mean_length"] == 20
        assert "return_by_episode_of_life" not in result


def test_learning_histories_are_lives_in_which_a_table_learns(capsys: pytest.CaptureFixture[str]) -> None:
    histories = ["collect", "dark_room", "--policy", "histories", "--episodes", "6"]
    assert main([*histories, "--env.lifetime", "100"]) == 0
    data = minari.load_dataset(capsys.readouterr().out.strip())
    lives = np.array([episode.rewards.reshape(100, 20).sum(1) for episode in data])
    early, late = lives[:, :20].mean(), lives[:, 80:].mean()
    assert early < 2
    assert late > 8
    assert main([*histories, "--env.lifetime", "0"]) == 2
    assert "--env.lifetime 200" in capsys.readouterr().err
    assert main(["collect", "Pendulum-v1", "--policy", "histories", "--episodes", "1", "--env.lifetime", "2"]) == 2
    assert "a table of discrete actions" in capsys.readouterr().err


def test_histories_learn_from_what_was_done_in_place_of_their_actions() -> None:
    histories = Histories(spaces.Discrete(2, start=3), 10, seed=0)
    anew, reward = np.array([False]), np.array([[0.0]], np.float32)
    observation = {"observation": np.array([0]), "previous_reward": reward, "episode_start": np.array([1])}
    _, state = histories.predict(observation, None, np.array([True]))
    chosen = []
    for _ in range(80):  # action 4 alone is done, and its reward is 1
        state = histories.replace_actions(state, np.array([4]), np.array([True]))
        actions, state = histories.predict(observation | {"previous_reward": reward + 1}, state, anew)
        chosen.append(int(actions[0]))
    assert chosen[-20:].count(4) > 15


COMMAND = re.compile(r"^    rmt-rl (.*)", re.MULTILINE)
PAGE = Path(__file__).parents[1] / "docs" / "lives.md"
QUICK_PPO = ("--total-timesteps", "64", "--n-envs", "1", "--agent.width", "16", "--eval-episodes", "2")


@pytest.mark.slow
def test_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    identity = ""
    for line in COMMAND.findall(PAGE.read_text(encoding="utf-8")):
        small = re.sub(r"--episodes \d+", "--episodes 2", line).replace("lifetime 200", "lifetime 3")
        name, *arguments = small.replace(" ID ", f" {identity} ").split()
        if name == "train":
            arguments += QUICK_PPO if "ppo" in arguments else (*TINY, "--agent.width", "16")
            arguments += () if {"ppo", "--dataset"} & set(arguments) else ("--collect-episodes", "8")
        assert main([name, *arguments]) == 0, line
        printed = capsys.readouterr().out.strip()
        identity = printed if name == "collect" else identity
    assert (tmp_path / "lives.png").exists()


def test_data_without_lives_keep_their_ids() -> None:
    from rmt_rl.acting.provenance import dataset_id

    plain = dataset_id("tmaze", {}, 10, 0)
    assert dataset_id("tmaze", {"lifetime": None}, 10, 0) == plain
    assert dataset_id("tmaze", {"lifetime": 0}, 10, 0) == plain
    assert dataset_id("tmaze", {"lifetime": 2}, 10, 0) != plain


def test_an_exported_agent_plays_the_lives_of_its_training(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from rmt_rl.export.act import make_env as make_standalone
    from rmt_rl.export.saving import _environment

    every: tuple[dict[str, int], ...] = ({}, {"lifetime": 0}, {"lifetime": 3})
    plain, single, lives = (_environment(tiny(run={}, env_options=options)) for options in every)
    assert "lifetime" not in plain
    assert single == plain
    assert lives == plain | {"lifetime": 3}
    short = {"corridor_length": 2}
    other = "CartPole-v1"
    for trained_in, name, options, are_lives in (
        (plain, None, {}, False),
        (plain, None, {"lifetime": 2}, True),
        (plain, other, {}, False),
        (plain, other, {"lifetime": 2}, True),
        (lives, None, short, True),
        (lives, None, {"lifetime": 0}, False),
        (lives, other, {}, True),
    ):
        with closing(make_standalone(trained_in, name, dict(options))) as env:
            assert isinstance(env, Lifetime) == are_lives
