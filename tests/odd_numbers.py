"""Environments whose numbers are wrong, by name `tests.odd_numbers:Odd`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS = 4


class Odd(gymnasium.Env[Any, Any]):
    """Episodes of `STEPS` steps in which one number of a field is `number`, from step `at` on.

    Args:
        field: `observation`, `reward` or `is_success`.
        number: the number, as Python writes it.
        at: the step; 0 is the reset.
    """

    def __init__(self, field: str = "none", number: str = "0.0", at: int = 2) -> None:
        self.observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float64), "b": spaces.Discrete(3)})
        self.action_space = spaces.Box(-2, 2, (1,))
        self.field, self.at, self.step_count = field, at, 0
        self.number = eval(number, {"np": np, "nan": np.nan, "inf": np.inf})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.step_count = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.step_count += 1
        ended = self.step_count == STEPS
        reward = self.number if self._is("reward") else 1.0
        info = {"is_success": self.number} if self._is("is_success") else {}
        return self._observe(), reward, ended, False, info

    def _is(self, field: str) -> bool:
        return self.field == field and self.step_count >= self.at

    def _observe(self) -> dict[str, Any]:
        numbers = np.full(3, 0.5)
        if self._is("observation"):
            numbers[1] = self.number
        return {"a": numbers, "b": np.int64(1)}
