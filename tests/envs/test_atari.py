"""Atari: the pictures, the episodes, and the expert of Breakout."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

pytest.importorskip("ale_py")

import rmt_rl  # registers the environments
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy
from rmt_rl.acting.rollout import make_vec_env
from rmt_rl.envs import atari as task
from rmt_rl.envs.atari import FIRE, NOOP, Atari, Config, Expert
from rmt_rl.errors import UsageError

assert rmt_rl


def frames(env: Atari, actions: list[int], seed: int = 0) -> NDArray[np.uint8]:
    """Return the observations of an episode, reset's first."""
    return np.array([env.reset(seed=seed)[0], *(env.step(np.int64(action))[0] for action in actions)])


@pytest.mark.parametrize("count", [1, 4])
def test_an_observation_holds_the_last_pictures(count: int) -> None:
    env = Atari(frames=count)
    actions = np.random.default_rng(0).integers(4, size=30).tolist()
    pictures = frames(env, actions)
    assert pictures.shape[1:] == env.observation_space.shape == (84, 84, count)
    assert pictures.dtype == np.uint8
    newest = frames(Atari(frames=1), actions)[..., 0]
    for t, picture in enumerate(pictures):
        for age in range(count):
            np.testing.assert_array_equal(picture[..., count - 1 - age], newest[max(t - age, 0)])
    assert (newest[1:] != newest[:-1]).any((1, 2)).sum() > 15


def test_a_picture_is_the_screen_averaged_by_areas() -> None:
    env = Atari("rgb_array", frames=1, noops=0)
    observation, _ = env.reset(seed=0)
    grey = np.empty(env.ale.getScreenDims(), np.uint8)
    env.ale.getScreenGrayscale(grey)
    assert grey.shape == (210, 160)
    small = np.kron(grey, np.ones((2, 21)))  # 420 x 3360 = (84 x 5) x (84 x 40)
    wanted = small.reshape(84, 5, 84, 40).mean((1, 3))
    assert np.abs(observation[..., 0] - wanted).max() <= 0.501
    assert env.render().shape == (210, 160, 3)


def test_what_a_step_returned_is_the_callers() -> None:
    one, other = Atari(), Atari()
    for env in (one, other):
        env.reset(seed=3)[0][:] = 7
    for t in range(10):
        mine, theirs = (env.step(np.int64(t % 4))[0] for env in (one, other))
        np.testing.assert_array_equal(mine, theirs)
        mine[:] = 0


def test_runs_follow_from_the_seed() -> None:
    actions = [FIRE, *np.random.default_rng(0).integers(4, size=60).tolist()]
    env = Atari()
    first = frames(env, actions, seed=1)
    np.testing.assert_array_equal(frames(Atari(), actions, seed=1), first)
    other = frames(env, actions, seed=2)
    assert (other != first).any()
    np.testing.assert_array_equal(frames(env, actions, seed=1), first)


@pytest.mark.parametrize(
    ("options", "lucky"),
    [({}, True), ({"noops": 0}, True), ({"noops": 0, "repeat_action_probability": 0}, False)],
)
def test_luck_has_a_part_unless_it_is_left_out(options: dict[str, Any], lucky: bool) -> None:
    actions = [FIRE, *np.random.default_rng(0).integers(4, size=40).tolist()]
    runs = {frames(Atari(**options), actions, seed).tobytes() for seed in range(3)}
    assert (len(runs) > 1) == lucky


def test_episodes_end_with_the_game_or_at_the_limit() -> None:
    env = Atari(max_steps=500)
    env.reset(seed=0)
    random = np.random.default_rng(0)
    ends: list[bool] = []
    lengths: list[int] = []
    steps = 0
    while len(ends) < 6:
        *_, reward, terminated, truncated, info = env.step(random.integers(4))
        steps += 1
        assert info == {}
        assert reward >= 0
        if terminated or truncated:
            assert terminated == env.ale.game_over()
            ends.append(terminated)
            lengths.append(steps)
            with pytest.raises(ResetNeeded):
                env.step(np.int64(NOOP))
            env.reset()
            steps = 0
    assert all(ends)
    assert min(lengths) > 50  # five lives
    idle = Atari(max_steps=20)
    idle.reset(seed=0)
    assert [idle.step(np.int64(NOOP))[2:4] for _ in range(20)] == [(False, False)] * 19 + [(False, True)]


def test_other_games() -> None:
    env = Atari(game="MsPacman", frames=2)
    assert env.reset(seed=0)[0].shape == (84, 84, 2)
    assert env.action_space == gymnasium.spaces.Discrete(9)
    with pytest.raises(UsageError, match="--policy"):
        Expert(Config(game="MsPacman"))


def test_expert_plays_far_better_than_chance() -> None:
    options = {"max_steps": 700}
    random = evaluate(RandomPolicy(Atari().action_space, 0), task, options, 4, seed=0)
    expert = evaluate(Expert(Config(**options)), task, options, 4, seed=0)
    assert random.mean_return < 6
    assert expert.mean_return > 20
    assert expert.success_rate is None


def test_expert_does_the_same_twice_and_lanes_are_their_own() -> None:
    def played(lanes: int) -> NDArray[np.int64]:
        env, expert, state = make_vec_env(task, {"max_steps": 30}, lanes), Expert(Config()), None
        expert.attach(env)
        observations, _ = env.reset(seed=5)
        starts, actions = np.ones(lanes, bool), []
        for _ in range(70):
            action, state = expert.predict(observations, state, starts)
            actions.append(action)
            observations, _, terminations, truncations, _ = env.step(action)
            starts = terminations | truncations
        env.close()
        return np.array(actions)

    many = played(3)
    np.testing.assert_array_equal(many, played(3))
    np.testing.assert_array_equal(many[:, :1], played(1))
    assert set(many.ravel()) == {0, 1, 2, 3}


def test_expert_needs_its_lanes() -> None:
    expert = Expert(Config())
    with pytest.raises(UsageError, match="call attach"):
        expert.predict(None)
    foreign = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(UsageError, match="reads the simulators' state; give it a SyncVectorEnv of Atari"):
        expert.attach(foreign)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "Breakouts"}, r"game='Breakouts': ALE has no such game.*did you mean 'Breakout'"),
        ({"frames": 0}, r"frames=0: .*expected"),
        ({"repeat_action_probability": 1}, r"repeat_action_probability=1: .*expected"),
        ({"max_steps": 0}, r"max_steps=0: .*expected"),
        ({"noop": 3}, r"unknown option noop=3 .*did you mean 'noops'"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Atari(**options)


def test_misuse() -> None:
    env = Atari()
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))
    with pytest.raises(UsageError, match=r"options=\{'x'"):
        env.reset(options={"x": 0})
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"action=4: .*0\.\.3"):
        env.step(np.int64(4))
    with pytest.raises(UsageError, match="render_mode"):
        env.render()


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make("rmt_rl/Atari-v0", game="Pong")
    assert isinstance(env.unwrapped, Atari)
    assert env.unwrapped.config == Config(game="Pong")
