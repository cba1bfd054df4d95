"""The T-Maze with its observations in another unit."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import vector
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.registry import load_task
from rmt_rl.task import Policy

TMAZE = load_task("tmaze")
Array = NDArray[Any]


class ScaledTMaze:
    """T-Maze whose observations are multiplied by `scale`; a run's horizon and memory are those of the T-Maze."""

    ID = "rmt_rl/ScaledTMaze-v0"

    class Config(Frozen):
        """Options of the T-Maze in another unit."""

        corridor_length: tuple[int, int] = Field((1, 28), description="shortest and longest corridor, in cells")
        scale: float = Field(1.0, gt=0, description="factor of the observations")

    @staticmethod
    def make(render_mode: str | None = None, *, scale: float = 1.0, **options: Any) -> gymnasium.Env[Any, Any]:
        """Make one environment."""
        env = TMAZE.make(render_mode, **options)
        space = _scaled_space(cast("spaces.Box", env.observation_space), scale)
        return wrappers.TransformObservation(env, lambda seen: _scaled(seen, scale), space)

    @staticmethod
    def make_vec(num_envs: int, *, scale: float = 1.0, **options: Any) -> VectorEnv[Any, Any, Any]:
        """Make environments that are stepped together."""
        make_vec: Any = TMAZE.make_vec  # type: ignore[attr-defined]  # optional in the interface
        env = make_vec(num_envs, **options)
        single = _scaled_space(env.single_observation_space, scale)
        return vector.TransformObservation(env, lambda seen: _scaled(seen, scale), single_observation_space=single)

    class Expert:
        """The T-Maze's expert, which sees the observations in the T-Maze's own unit."""

        def __init__(self, config: Frozen, seed: int = 0) -> None:
            options = dict(config)
            self.scale = options.pop("scale")
            self.expert: Policy = TMAZE.Expert(TMAZE.Config(**options), seed)

        def predict(
            self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
        ) -> tuple[Any, Any]:
            """See `rmt_rl.task.Policy`."""
            seen = np.rint(observation / self.scale).astype(np.float32)
            return self.expert.predict(seen, state, episode_start, deterministic)

    @staticmethod
    def decisive(trajectory: Trajectory) -> NDArray[np.bool_]:
        """Return the mask, bool (T,), of the steps at the junction."""
        at_junction: NDArray[np.bool_] = np.asarray(trajectory.observations)[:-1, 2] > 0
        return at_junction


def _scaled(observation: Array, scale: float) -> Array:
    return (observation * scale).astype(np.float32)


def _scaled_space(space: spaces.Box, scale: float) -> spaces.Box:
    return spaces.Box(_scaled(space.low, scale), _scaled(space.high, scale), dtype=np.float32)
