"""Data with noise: random actions in place of an expert's or an agent's, recorded as they are done."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.acting.collect import collect
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import Behaviour, Disturbed, EachEpisodeAnew, Share
from rmt_rl.acting.provenance import dataset_id, dataset_ids
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.cli import main
from rmt_rl.data.store import EpisodeStore
from rmt_rl.environments import make_env
from rmt_rl.registry import agent_class, load_task
from rmt_rl.task import task_config
from rmt_rl.training.datasets import open_data
from tests.agents.examples import MIXED, SMALL, VECTOR, draw
from tests.masked import SIZES
from tests.tiny import tiny

CORRIDOR = {"corridor_length": 30}
FORWARD = 0


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))


def actions_of(identity: str) -> np.ndarray[Any, Any]:
    store = EpisodeStore(identity)
    return np.concatenate([np.asarray(store.episode(index).actions) for index in range(len(store))])


def facts_of(identity: str) -> Any:
    return json.loads(minari.load_dataset(identity).storage.metadata["behaviour"])


@pytest.mark.parametrize("shards", [1, 2])
def test_actions_are_replaced_as_often_as_asked_and_recorded(shards: int) -> None:
    noisy = Behaviour(noise=0.4)
    identity = collect("tmaze", CORRIDOR, 60, 0, noisy, shards=shards)
    actions = actions_of(identity)
    assert (actions != FORWARD).mean() == pytest.approx(0.2 * 3 / 4, abs=0.04)
    assert facts_of(identity)["noise"] == 0.4
    store = EpisodeStore(identity)
    shares = [np.mean(np.asarray(store.episode(index).actions) != FORWARD) for index in range(len(store))]
    assert np.std(shares) > 0.07, "each episode has a level of its own"
    minari.delete_dataset(identity)
    assert collect("tmaze", CORRIDOR, 60, 0, noisy, shards=shards) == identity
    np.testing.assert_array_equal(actions_of(identity), actions)


def test_noise_is_part_of_the_id_and_its_absence_is_not() -> None:
    identity = collect("tmaze", CORRIDOR, 5, 0, Behaviour(noise=0.0))
    assert identity == dataset_id("tmaze", CORRIDOR, 5, 0)
    assert "noise" not in facts_of(identity)
    others = {dataset_id("tmaze", CORRIDOR, 5, 0, Behaviour(noise=noise)) for noise in (0.1, 0.2)}
    assert len({identity, *others}) == 3


def test_references_are_measured_without_noise() -> None:
    noisy = minari.load_dataset(collect("tmaze", CORRIDOR, 5, 0, Behaviour(noise=0.9))).storage.metadata
    assert noisy["ref_max_score"] == 1


@pytest.mark.parametrize(
    ("env", "options", "noise", "least"),
    [
        ("tmaze", {}, 0.0, 0.999),
        ("minigrid_memory", {"size": 11}, 0.1, 0.7),
        ("associative_retrieval", {"episode_length": 3, "refusals": False}, 0.1, 0.5),
        ("popgym", {"task": "position_only_cartpole"}, 0.1, 0.9),
        ("popgym", {"task": "concentration"}, 0.05, 0.7),
        ("popgym", {"task": "minesweeper"}, 0.05, 0.55),
        ("popgym", {"task": "position_only_pendulum"}, 0.2, 0.85),
    ],
)
def test_experts_recover_because_they_know_what_was_done(
    env: str, options: dict[str, Any], noise: float, least: float
) -> None:
    task = load_task(env)
    config = task_config(task, options)
    expert = task.Expert(config, seed=0)
    policy = Disturbed(expert, make_env(task, config).action_space, noise, seed=0)
    assert evaluate(policy, task, config, 10, 0).mean_return > least


def test_a_battleship_expert_forgets_shots_that_it_did_not_fire() -> None:
    task = load_task("popgym")
    expert = task.Expert(task_config(task, {"task": "battleship"}))
    _, state = expert.predict(np.array([0]), None, np.array([True]))
    state = expert.replace_actions(state, np.array([[7, 7]]), np.array([True]))  # type: ignore[attr-defined]
    shots = []
    for hit in (1, 0):
        actions, state = expert.predict(np.array([hit]), state, np.array([False]))
        shots.append(actions[0].tolist())
    assert shots[0] in ([6, 7], [7, 6]), "next to the hit"


def test_agents_are_informed_and_random_policies_are_left_alone() -> None:
    cls: Any = agent_class("rate")
    agent: Agent = cls(cls.Config.model_validate(SMALL), AgentSpec(VECTOR, MIXED))
    policy = Disturbed(agent, MIXED, noise=1.0, seed=0)
    last = None
    for start in (True, False, False, False):
        actions, last = policy.predict(draw(VECTOR, 3), last, np.full(3, start))
        state, *_ = last
        np.testing.assert_equal(state.actions, actions)
    random = Behaviour((Share("random"),))
    one, other = (collect("tmaze", CORRIDOR, 5, 0, random._replace(noise=noise)) for noise in (0.0, 0.5))
    np.testing.assert_array_equal(actions_of(one), actions_of(other))


@pytest.mark.parametrize("options", [{}, {"lifetime": 2}], ids=["episodes", "lives"])
def test_noise_is_among_the_actions_that_are_allowed(options: dict[str, Any]) -> None:
    task, space = load_task("tests.masked:MaskedTask"), spaces.MultiDiscrete(SIZES)
    with closing(make_env(task, options)) as env:
        cls: Any = agent_class("rate")
        agent: Agent = cls(cls.Config.model_validate(SMALL), AgentSpec(env.observation_space, space))
    policy = Disturbed(EachEpisodeAnew(agent) if options else agent, space, noise=1.0, seed=0)
    assert evaluate(policy, task, options, 10, 0).mean_length > 1, "other actions raise an error"


def test_a_run_collects_with_noise() -> None:
    config = tiny(data={"collect_episodes": 9, "collect_noise": 0.5})
    store = open_data(config)
    assert store.ids == dataset_ids(config)
    assert facts_of(store.ids[0])["noise"] == 0.5


def test_the_command_takes_noise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "tmaze", "--episodes", "5", "--noise", "0.25"]) == 0
    identity = capsys.readouterr().out.strip()
    assert facts_of(identity)["noise"] == 0.25
    assert main(["collect", "tmaze", "--noise", "1.5"]) == 2
    assert "noise=1.5" in capsys.readouterr().err


def test_numbers_with_bounds_get_normal_noise() -> None:
    """Its deviation is a share of half the range; parts without bounds are drawn anew."""
    space = spaces.Tuple(
        (spaces.Box(np.array([-1, 10], np.float32), np.array([1, 50], np.float32)), spaces.Box(-np.inf, np.inf, ()))
    )
    policy = Disturbed(Still(), space, noise=0.2, seed=0)
    (bounded, free), _ = policy.predict(None, None, np.ones(20_000, bool))
    level = 0.2 / 3**0.5  # the root of the mean square of levels between 0 and 0.2
    np.testing.assert_allclose((bounded - [0, 30]).std(0), [level, 20 * level], rtol=0.03)
    np.testing.assert_allclose((free != 7).mean(), 0.1, atol=0.01)
    assert bounded.dtype == np.float32


class Still:
    """Always takes the same action."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        count = len(episode_start)
        return (np.tile(np.array([0, 30], np.float32), (count, 1)), np.full(count, 7.0, np.float32)), None
