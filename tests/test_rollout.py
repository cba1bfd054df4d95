from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from rmt_rl.acting.rollout import make_vec_env, rollout, shares
from rmt_rl.errors import UsageError
from tests.recall import Recall, RecallTask


class Leaning:
    """Pushes CartPole's cart to the side its pole leans to."""

    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.int64], Any]:
        return (observation[:, 2] > 0).astype(np.int64), state


class Remembering:
    """Recalls the cue of the first observation, and notes what it was told."""

    def __init__(self) -> None:
        self.starts: list[NDArray[np.bool_]] = []

    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.int64], Any]:
        self.starts.append(episode_start.copy())
        cue = observation[:, 0] if state is None else np.where(episode_start, observation[:, 0], state)
        return cue.astype(np.int64), cue


def cartpoles(lanes: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * lanes, autoreset_mode=mode)


def plain_returns(seed: int, episodes: int) -> list[float]:
    """Play one lane by the book."""
    env, policy, returns = gymnasium.make("CartPole-v1"), Leaning(), []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        total, over = 0.0, False
        while not over:
            (action,), _ = policy.predict(observation[None])
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


@pytest.mark.parametrize(("episodes", "lanes"), [(7, 3), (3, 3), (2, 3), (5, 1), (12, 4)])
def test_every_lane_plays_its_share_exactly_as_if_it_were_alone(episodes: int, lanes: int) -> None:
    returns: list[list[float]] = [[] for _ in range(lanes)]
    totals = np.zeros(lanes)
    for step in rollout(Leaning(), cartpoles(lanes), episodes, seed=5):
        totals += np.where(step.counted, step.rewards, 0)
        for lane in np.flatnonzero(step.ends):
            returns[lane].append(totals[lane])
            totals[lane] = 0
    assert returns == [plain_returns(5 + lane, share) for lane, share in enumerate(shares(episodes, lanes))]
    assert sum(map(len, returns)) == episodes
    assert (totals == 0).all(), "a counted episode was cut off"


def test_shares_differ_by_at_most_one() -> None:
    assert shares(7, 3).tolist() == [3, 2, 2]
    assert shares(2, 4).tolist() == [1, 1, 0, 0]


def test_starts_mark_first_observations_and_reset_steps_do_not_count() -> None:
    env, policy = SyncVectorEnv([lambda: Recall(3), lambda: Recall(5)]), Remembering()
    steps = list(rollout(policy, env, 6, seed=0))
    for step, told in zip(steps, policy.starts, strict=True):
        np.testing.assert_array_equal(step.starts, told)
        np.testing.assert_array_equal(step.starts, step.observations[:, 1] == 0)  # column 1 is the time
    for lane, length in enumerate((3, 5)):
        times = [int(step.observations[lane, 1]) for step in steps if step.counted[lane]]
        assert times == list(range(length)) * 3, "counted steps are whole episodes, nothing between them"
        assert [step.next_observations[lane, 1] for step in steps if step.ends[lane]] == [length] * 3
    assert all(step.rewards[step.ends].all() for step in steps), "the cue of the lane's own episode was recalled"


class Rescaling(gymnasium.Env[Any, Any]):
    """Changes the action that it is given, in place."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action *= 10
        return np.zeros(1, np.float32), 0.0, True, False, {}


class Half:
    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.float32], Any]:
        return np.full((len(observation), 1), 0.5, np.float32), state


def test_actions_are_what_the_policy_chose() -> None:
    env = SyncVectorEnv([Rescaling] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    for step in rollout(Half(), env, episodes=4, seed=0):
        np.testing.assert_array_equal(step.actions, 0.5)


def test_deterministic_is_handed_on() -> None:
    class Asked:
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
        ) -> tuple[NDArray[np.int64], Any]:
            return np.full(len(observation), int(deterministic)), state

    assert {int(step.actions[0]) for step in rollout(Asked(), cartpoles(1), 1, 0, deterministic=False)} == {0}
    assert {int(step.actions[0]) for step in rollout(Asked(), cartpoles(1), 1, 0)} == {1}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode: AutoresetMode) -> None:
    with pytest.raises(UsageError, match=r"autoreset_mode = .*NEXT_STEP"):
        next(rollout(Leaning(), cartpoles(2, mode), 2, seed=0))


def test_no_episodes_are_refused() -> None:
    with pytest.raises(UsageError, match="episodes = 0"):
        next(rollout(Leaning(), cartpoles(2), 0, seed=0))


def test_make_vec_env_uses_the_native_vectorisation_where_there_is_one() -> None:
    class Native(RecallTask):
        def make_vec(self, num_envs: int, **options: Any) -> SyncVectorEnv:
            env = SyncVectorEnv([lambda: Recall(**options)] * num_envs)
            env.metadata["native"] = True
            return env

    assert make_vec_env(Native(), {"length": 4}, 3).metadata["native"]
    plain = make_vec_env(RecallTask(), {"length": 4}, 3)
    assert "native" not in plain.metadata
    assert plain.num_envs == 3
    assert plain.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="did you mean 'length'"):
        make_vec_env(RecallTask(), {"lenght": 4}, 1)
    with pytest.raises(UsageError, match=r"length=0: .*greater than or equal to 1; expected steps"):
        make_vec_env(RecallTask(), {"length": 0}, 1)
