"""The smallest memory task: the first observation shows a cue, and the last action must repeat the cue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen
from rmt_rl.task import Policy


class Recall(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Repeat a cue at the end of an episode of `length` steps.

    Observations are (cue, time), with -1 in place of the cue after time 0. The reward is 1 if the last action is the
    cue, else 0.
    """

    def __init__(self, length: int = 5, cues: int = 2) -> None:
        self.observation_space = spaces.Box(-1, 1000, (2,), np.float32)
        self.action_space = spaces.Discrete(cues)
        self.length, self.cues, self.time, self.cue = length, cues, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.integers(self.cues))
        return np.array([self.cue, 0], np.float32), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.time += 1
        over, right = self.time == self.length, int(action) == self.cue
        info = {"is_success": right} if over else {}
        return np.array([-1, self.time], np.float32), float(over and right), over, False, info


class Config(Frozen):
    length: int = Field(5, ge=1, description="steps of an episode")
    cues: int = Field(2, ge=2, le=9, description="cues to tell apart")


class Expert:
    """Always acts the cue of the first observation. The state holds the cues (N,)."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config

    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.int64], Any]:
        cue = observation[:, 0] if state is None else np.where(episode_start, observation[:, 0], state)
        return cue.astype(np.int64), cue


class RecallTask:
    """The task: a class with the names that an environment's file has (`rmt_rl.task.Task`)."""

    ID = "Recall-v0"
    Config: type[Frozen] = Config
    make: Callable[..., gymnasium.Env[Any, Any]] = Recall
    Expert: Callable[..., Policy] = Expert
