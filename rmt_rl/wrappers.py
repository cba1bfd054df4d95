"""Wrappers that put the return still to come into the observation, for agents conditioned on it.

An agent that is told which return to aim at must hear of rewards as they arrive. With the return-to-go in the
observation, any loop that knows only observations and actions, such as Stable-Baselines3's, needs no special case.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from rmt_rl.errors import UsageError
from rmt_rl.numbers import Words, check_plain_numbers

Observation: TypeAlias = dict[str, Any]
Info: TypeAlias = dict[str, Any]
Begun: TypeAlias = tuple[Observation, Info]
Step: TypeAlias = tuple[Observation, Any, bool, bool, Info]
VectorStep: TypeAlias = tuple[Observation, Any, Any, Any, Info]
AnyEnv: TypeAlias = gymnasium.Env[Any, Any]
AnyVectorEnv: TypeAlias = VectorEnv[Any, Any, Any]


def require_next_step(env: AnyVectorEnv) -> None:
    """Refuse a vector environment unless it resets each environment in the step after its episode's end.

    Raises:
        UsageError: the environment's autoreset mode is another one, or isn't declared.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise UsageError(f"{env} has autoreset_mode = {mode}; make it with AutoresetMode.NEXT_STEP")


def _check_target(target_return: float) -> None:
    """Raise a UsageError if a return to aim at is NaN, infinite or too large for float32."""
    words = Words("give a return that an episode can reach")
    check_plain_numbers(np.asarray(target_return), "target_return", words)


def return_to_go_space(observation_space: spaces.Space[Any]) -> spaces.Dict:
    """Return the space of `{"observation": ..., "return_to_go": float32 (1,)}`."""
    return_to_go = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    parts = {
        "observation": observation_space,
        "return_to_go": return_to_go,
    }
    return spaces.Dict(parts)


class ReturnToGo(gymnasium.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """Observes the return still to come: `target_return` at an episode's start, minus the rewards since."""

    def __init__(self, env: AnyEnv, target_return: float) -> None:
        """Wrap `env`; `target_return` is the undiscounted return to aim at.

        Raises:
            UsageError: the target return is NaN, infinite or too large for float32.
        """
        _check_target(target_return)
        RecordConstructorArgs.__init__(self, target_return=target_return)
        super().__init__(env)
        self.observation_space = return_to_go_space(env.observation_space)
        self._target = target_return
        self._to_go = target_return

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Info | None = None,
    ) -> Begun:
        """Begin an episode with the whole return still to come."""
        original, info = self.env.reset(seed=seed, options=options)
        self._to_go = self._target
        observation = self._observe(original)
        return observation, info

    def step(self, action: Any) -> Step:
        """Act, and take the reward off the return still to come."""
        original, reward, terminated, truncated, info = self.env.step(action)
        self._to_go -= float(reward)
        observation = self._observe(original)
        return observation, reward, terminated, truncated, info

    def _observe(self, observation: Any) -> Observation:
        return_to_go = np.array([self._to_go], np.float32)
        return {
            "observation": observation,
            "return_to_go": return_to_go,
        }


class VectorReturnToGo(VectorWrapper[Observation, Any, Any, Any, Any]):
    """`ReturnToGo` for a vector environment with next-step autoreset: `return_to_go` is float32 (N, 1)."""

    def __init__(self, env: AnyVectorEnv, target_return: float) -> None:
        """Wrap `env`; `target_return` is the undiscounted return to aim at.

        Raises:
            UsageError: the environment's autoreset mode is another one, or the target return is NaN, infinite or too
                large for float32.
        """
        _check_target(target_return)
        super().__init__(env)
        require_next_step(env)
        lanes = env.num_envs
        space = return_to_go_space(env.single_observation_space)
        self.single_observation_space = space
        self.observation_space = batch_space(space, lanes)
        self._target = target_return
        self._to_go = np.full(lanes, target_return, np.float64)
        self._resets = np.zeros(lanes, bool)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Info | None = None,
    ) -> Begun:
        """Begin an episode in every environment with the whole return still to come."""
        originals, infos = self.env.reset(seed=seed, options=options)
        self._to_go[:] = self._target
        self._resets[:] = False
        observations = self._observe(originals)
        return observations, infos

    def step(self, actions: Any) -> VectorStep:
        """Act, and take each reward off the return still to come; environments that are reset start anew."""
        originals, rewards, terminations, truncations, infos = self.env.step(actions)
        self._to_go -= rewards
        self._to_go[self._resets] = self._target
        self._resets = terminations | truncations
        observations = self._observe(originals)
        return observations, rewards, terminations, truncations, infos

    def _observe(self, observations: Any) -> Observation:
        returns_to_go = self._to_go.astype(np.float32)
        return {
            "observation": observations,
            "return_to_go": returns_to_go[:, None],
        }
