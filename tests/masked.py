"""An environment that refuses actions which its masks don't allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rmt_rl.config import Frozen

SIZES = [3, 2]


class Masked(gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Play five steps. Each allows other actions; the reward is 1 if the first of them is played."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.action_space = spaces.MultiDiscrete(SIZES)
        self.time = 0
        self.allowed: list[NDArray[np.bool_]] = []

    def action_masks(self) -> NDArray[np.bool_]:
        return np.concatenate(self.allowed)

    def _observed(self) -> NDArray[np.float32]:
        self.allowed = []
        for size in SIZES:
            allowed = self.np_random.random(size) < 0.5
            allowed[self.np_random.integers(size)] = True
            self.allowed.append(allowed)
        return np.array([self.time / 5], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observed(), {}

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not all(allowed[index] for allowed, index in zip(self.allowed, action, strict=True)):
            raise RuntimeError(f"action {action} isn't allowed")
        self.time += 1
        reward = float(action[0] == np.flatnonzero(self.allowed[0])[0])
        return self._observed(), reward, self.time == 5, False, {}


class Exhausted(Masked):
    """Such an environment that allows no action once an episode has ended."""

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated:
            self.allowed = [np.zeros(size, bool) for size in SIZES]
        return observation, reward, terminated, truncated, info


class MaskedTask:
    """The task: a class with the names that an environment's file has (`rmt_rl.task.Task`)."""

    ID = "Masked-v0"
    Config: type[Frozen] = Frozen
    make: Callable[..., gymnasium.Env[Any, Any]] = Masked


class ExhaustedTask:
    """The task that allows nothing at the end."""

    ID = "Exhausted-v0"
    Config: type[Frozen] = Frozen
    make: Callable[..., gymnasium.Env[Any, Any]] = Exhausted
