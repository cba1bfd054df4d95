"""CartPole with hidden velocities: the same world as Gymnasium's, less of it seen, and what that takes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import rmt_rl  # noqa: F401 - registers the environments
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.envs import cartpole_hidden as task
from rmt_rl.envs.cartpole_hidden import CartPoleHidden, Config, Expert
from rmt_rl.errors import UsageError
from rmt_rl.runs.evaluation import Evaluation

SEEN = {"velocities": [0, 2], "positions": [1, 3], "nothing": [0, 1, 2, 3]}
UNITS = np.array([2.4, 1, np.pi / 15, 1])


class Weighted:
    """A policy without memory: pushes right with a probability that a weighted sum of the observation decides."""

    def __init__(self, weights: list[float], steepness: float) -> None:
        self.weights, self.steepness = np.array(weights), steepness
        self.random = np.random.default_rng(0)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        push = np.clip(self.steepness * (observation @ self.weights), -50, 50)
        return (self.random.random(len(push)) < 1 / (1 + np.exp(-push))).astype(np.int64), None


class Forgetful(Expert):
    """The expert, to whom every step is an episode's first."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        return super().predict(observation, state, np.ones(len(observation), bool), deterministic)


def played(policy: Any, episodes: int, **options: Any) -> Evaluation:
    return evaluate(policy, task, options, episodes, seed=0)


@pytest.mark.parametrize("hide", list(SEEN))
def test_it_is_gymnasiums_cartpole_seen_in_part(hide: str) -> None:
    env, world = CartPoleHidden(hide=hide), gymnasium.make("CartPole-v1")
    random = np.random.default_rng(0)
    for seed in range(20):
        wanted, _ = world.reset(seed=seed)
        observation, info = env.reset(seed=seed)
        done = False
        while not done:
            np.testing.assert_allclose(observation, (wanted / UNITS)[SEEN[hide]], rtol=1e-6)
            assert observation.dtype == np.float32
            assert env.observation_space.contains(observation)
            assert info == {}
            action = random.integers(2)
            wanted, wanted_reward, *ends, _ = world.step(action)
            observation, reward, terminated, truncated, info = env.step(action)
            assert [reward, terminated, truncated] == [wanted_reward, *ends]
            done = terminated or truncated
        assert info == {"is_success": False}
        assert (np.abs((wanted / UNITS)[[0, 2]]) > 1).any()


@pytest.mark.parametrize("hide", list(SEEN))
def test_expert_balances_to_the_end(hide: Any) -> None:
    evaluation = played(Expert(Config(hide=hide)), 40, hide=hide)
    assert evaluation.success_rate == 1
    assert {episode.length for episode in evaluation.episodes} == {500}
    assert evaluation.mean_return == 500


def test_limit_of_steps() -> None:
    short = played(Expert(Config(max_steps=7)), 10, max_steps=7)
    assert {episode.length for episode in short.episodes} == {7}
    assert short.success_rate == 1
    assert played(Expert(Config(max_steps=3000)), 5, max_steps=3000).success_rate == 1


def test_a_fall_in_the_last_step_is_no_success() -> None:
    env = CartPoleHidden()
    env.reset(seed=0)
    steps = 1
    while not env.step(np.int64(0))[2]:
        steps += 1
    for limit, fallen in ((steps, True), (steps - 1, False)):
        env = CartPoleHidden(max_steps=limit)
        env.reset(seed=0)
        for _ in range(limit):
            *_, terminated, truncated, info = env.step(np.int64(0))
        assert [terminated, truncated, info] == [fallen, not fallen, {"is_success": not fallen}]


def test_memory_is_needed() -> None:
    assert played(Forgetful(Config()), 100).mean_return < 60
    for weights, steepness in (([-0.78, 0.19], 1e9), ([-0.24, 0.154], 36.0)):  # the best of a random search
        best = played(Weighted(weights, steepness), 200)
        assert 35 < best.mean_return < 65
        assert best.success_rate == 0
    assert played(Forgetful(Config(hide="nothing")), 20, hide="nothing").success_rate == 1


def test_expert_predicts_from_dict_observations_and_lanes_start_by_themselves() -> None:
    expert = Expert(Config())
    seen = np.array([[0, 0.1], [0, 0.1]], np.float32)
    _, state = expert.predict({"observation": seen + np.float32(0.1)}, None, np.ones(2, bool))
    actions, _ = expert.predict({"observation": seen}, state, np.array([False, True]))
    np.testing.assert_array_equal(actions, [task.LEFT, task.RIGHT])  # falling to the left; leaning to the right


def test_picture() -> None:
    env = CartPoleHidden(render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8
    assert before.shape == (400, 600, 3)
    for _ in range(8):
        env.step(np.int64(1))
    assert (env.render() != before).any()
    env.close()
    with pytest.raises(UsageError, match="render_mode"):
        CartPoleHidden().render()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hide": "velocity"}, r"hide='velocity': .*expected .*velocities, positions or nothing"),
        ({"max_steps": 0}, r"max_steps=0: .*expected .*>= 1"),
        ({"max_step": 9}, r"unknown option max_step=9 .*did you mean 'max_steps'\?"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CartPoleHidden(**options)


def test_misuse() -> None:
    env = CartPoleHidden(max_steps=1)
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))
    with pytest.raises(UsageError, match=r"options=\{'low'"):
        env.reset(options={"low": 0})
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action=2"):
        env.step(np.int64(2))
    env.step(np.int64(1))
    with pytest.raises(ResetNeeded):
        env.step(np.int64(1))


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make("rmt_rl/CartPoleHidden-v0", hide="positions")
    assert isinstance(env.unwrapped, CartPoleHidden)
    assert env.unwrapped.config == Config(hide="positions")
