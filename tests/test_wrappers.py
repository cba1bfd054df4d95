from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from rmt_rl.errors import UsageError
from rmt_rl.wrappers import ReturnToGo, VectorReturnToGo


class Noisy(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives rewards that differ from step to step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(observation[0]) * 7, terminated, truncated, info


def make() -> gymnasium.Env[Any, Any]:
    return Noisy(gymnasium.make("CartPole-v1"))


def test_return_to_go_is_the_target_less_the_rewards_of_this_episode() -> None:
    env = ReturnToGo(make(), target_return=10.0)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        assert observation["return_to_go"] == 10.0
        rewards: list[float] = []
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(seed % 2)
            rewards.append(float(reward))
            over = terminated or truncated
            assert observation["return_to_go"].dtype == np.float32
            np.testing.assert_allclose(observation["return_to_go"], [10.0 - sum(rewards)], rtol=1e-6)
            assert observation in env.observation_space


def test_lanes_of_the_vector_wrapper_equal_the_single_wrapper() -> None:
    lanes = 3
    vector = VectorReturnToGo(SyncVectorEnv([make] * lanes), target_return=10.0)
    single = SyncVectorEnv([lambda: ReturnToGo(make(), target_return=10.0)] * lanes)
    assert vector.single_observation_space == single.single_observation_space
    assert vector.observation_space == single.observation_space
    random = np.random.default_rng(0)
    observations, expected = vector.reset(seed=4)[0], single.reset(seed=4)[0]
    resets = 0
    for _ in range(150):
        np.testing.assert_array_equal(observations["return_to_go"], expected["return_to_go"])
        np.testing.assert_array_equal(observations["observation"], expected["observation"])
        actions = random.integers(2, size=lanes)
        observations, _, terminations, *_ = vector.step(actions)
        expected = single.step(actions)[0]
        resets += int(terminations.sum())
    assert resets > lanes, "lanes were reset on the way, at different times"
    assert (vector.reset()[0]["return_to_go"] == 10.0).all()


def test_a_target_may_be_a_whole_number() -> None:
    env = VectorReturnToGo(SyncVectorEnv([make] * 2), target_return=1)
    env.reset(seed=0)
    observations, rewards, *_ = env.step(np.ones(2, int))
    assert (rewards % 1 != 0).all()
    np.testing.assert_allclose(observations["return_to_go"][:, 0], 1 - rewards, rtol=1e-6)


def test_earlier_observations_are_not_changed_by_later_steps() -> None:
    env = VectorReturnToGo(SyncVectorEnv([make] * 2), target_return=10.0)
    observations, _ = env.reset(seed=0)
    env.step(np.ones(2, int))
    assert (observations["return_to_go"] == 10.0).all()


def test_other_autoreset_modes_are_refused() -> None:
    with pytest.raises(UsageError, match="NEXT_STEP"):
        VectorReturnToGo(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP), target_return=10.0)


@pytest.mark.filterwarnings("ignore:.*(unwrapped version|is -?infinity)")
def test_passes_the_checkers_and_stable_baselines3s_own_evaluation() -> None:
    env = ReturnToGo(gymnasium.make("CartPole-v1").unwrapped, target_return=10.0)
    check_env(env, skip_render_check=True)
    seen: list[float] = []

    class Watching:
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[Any, Any]:
            seen.extend(observation["return_to_go"][episode_start].ravel())
            return np.ones(len(episode_start), int), state

    make_wrapped = lambda: ReturnToGo(gymnasium.make("CartPole-v1"), target_return=10.0)  # noqa: E731
    returns, _ = evaluate_policy(
        Watching(), DummyVecEnv([make_wrapped]), n_eval_episodes=3, return_episode_rewards=True, warn=False
    )
    assert len(returns) == 3  # type: ignore[arg-type]
    assert seen == [10.0] * 3
