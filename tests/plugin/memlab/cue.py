"""Cue: 2-40 steps; repeat, in the last step, which of two lights was on in the first."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated

ID = "memlab/Cue-v0"
EPISODES = 200


class Config(Frozen):
    """Options of the environment."""

    delay: int = Field(5, ge=1, le=39, description="steps between the cue and the answer")


class Cue(gymnasium.Env[NDArray[np.float32], np.int64]):
    """An episode of `delay + 1` steps. Observations: the two lights, and 1 when the answer is asked for."""

    metadata = {  # noqa: RUF012 - Gymnasium declares it an instance's variable
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.observation = np.zeros(3, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(2)), 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        ended = self.time == self.config.delay
        right = bool(ended and action == self.cue)
        self.time += 1
        return self._observe(), float(right), ended, False, {"is_success": right} if ended else {}

    def render(self) -> NDArray[np.uint8]:
        """Return a picture: uint8 (8, 24, 3)."""
        lights = (self.observation * 200 + 55).astype(np.uint8)
        return np.kron(lights[None, :, None], np.ones((8, 8, 3), np.uint8))

    def _observe(self) -> NDArray[np.float32]:
        self.observation = np.zeros(3, np.float32)
        self.observation[self.cue] = self.time == 0
        self.observation[2] = self.time == self.config.delay
        return self.observation


class Expert:
    """Remembers the cue of each environment."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        """No option changes the best policy, and nothing in it is random."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Return the cues (B,) as actions and as the next state."""
        shown = observation[:, 1].astype(np.int64)
        cues = shown if state is None else np.where(episode_start, shown, state)
        return cues, cues


def make(render_mode: str | None = None, **options: Any) -> Cue:
    """Make one environment; `options` are the fields of `Config`."""
    return Cue(render_mode, **options)
