"""CartPole with hidden velocities: balance for 500 steps; remember both positions for one step to estimate speeds.

The task is Gymnasium's CartPole-v1 (after Barto, Sutton and Anderson, 1983), but the agent observes only the cart's
position and the pole's angle. These positions alone don't tell whether the pole is falling or rising. Their change over
one step of 0.02 s does. The agent must therefore remember only the last observation, at every step.

experiments/ceilings shows what the best of many memoryless linear policies of position and angle reaches.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.errors import UsageError

ID = "rmt_rl/CartPoleHidden-v0"

LEFT, RIGHT = 0, 1  # direction in which the cart is pushed

_TRACK, _LEAN = 2.4, np.deg2rad(12)  # bounds that end an episode: the cart's position (m), the pole's angle (rad)
_SEEN = {"velocities": (0, 2), "positions": (1, 3), "nothing": (0, 1, 2, 3)}  # observed indices, by what is hidden
_UNITS = np.array([_TRACK, 1, _LEAN, 1])
_GAINS = np.array([0.5, 1.0, 10.0, 2.0])  # the expert's gains: cart (1/m, s/m), pole (1/rad, s/rad)
_DT = 0.02  # seconds per step


class Config(Frozen):
    """Options of CartPole with hidden velocities. The defaults are the training task."""

    hide: Literal["velocities", "positions", "nothing"] = Field(
        "velocities", description="part of the state to omit from the observation: velocities, positions or nothing"
    )
    max_steps: int = Field(500, ge=1, le=10**9, description="steps to balance for, >= 1: the longest episode")


class CartPoleHidden(gymnasium.Env[NDArray[np.float32], np.int64]):
    """CartPole whose observation omits a part of the state.

    Observations: float32 (2,): the cart's position / 2.4 m and the pole's angle / 12 degrees, both in [-1, 1] as long
    as the episode lasts. With `hide="positions"`, (2,): the cart's velocity (m/s) and the pole's (rad/s). With
    `hide="nothing"`, (4,): position, velocity, angle, angular velocity.

    Actions: 0 pushes the cart to the left, 1 to the right.

    Rewards: 1 per step.

    An episode terminates when the cart or the pole leaves its bounds, and is truncated after `max_steps` steps. The
    last info holds `is_success`, True if the episode lasted `max_steps` steps with the pole up.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self._world: Any = CartPoleEnv(render_mode=render_mode)  # Any, because its methods are untyped
        self._seen = list(_SEEN[self.config.hide])
        # The last observation exceeds the bounds by less than one step's motion. Gymnasium's own space is as wide.
        high = np.array([2, np.inf, 2, np.inf], np.float32)[self._seen]
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self._time = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seed of the random stream. None continues it.
            options: Must be empty.

        Returns:
            The first observation and an empty info.

        Raises:
            UsageError: `options` isn't empty.
        """
        check_no_options(options)
        super().reset(seed=seed)
        self._world.reset(seed=seed)
        self._time, self._running = 0, True
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Push the cart for 0.02 s.

        Raises:
            UsageError: the action is neither 0 nor 1.
            ResetNeeded: `reset` was never called, or the episode has ended.
        """
        check_running(self._running)
        if not self.action_space.contains(action):
            raise UsageError(f"action={action}: must be 0 or 1")
        _, reward, fallen, _, _ = self._world.step(int(action))
        self._time += 1
        lasted = self._time >= self.config.max_steps and not fallen
        self._running = not (fallen or lasted)
        return self._observe(), float(reward), bool(fallen), lasted, {} if self._running else {"is_success": lasted}

    def render(self) -> NDArray[np.uint8]:
        """Draw cart and pole as Gymnasium does: uint8 (400, 600, 3).

        Raises:
            UsageError: the environment was made without `render_mode="rgb_array"`.
            ResetNeeded: `reset` was never called.
        """
        check_drawable(self.render_mode)
        if self._world.state is None:
            raise ResetNeeded("nothing to draw yet: call reset() before render()")
        return np.asarray(self._world.render(), np.uint8)

    def close(self) -> None:
        """Free the window in which pictures are drawn."""
        self._world.close()

    def _observe(self) -> NDArray[np.float32]:
        state: NDArray[np.float64] = np.asarray(self._world.state) / _UNITS
        return state[self._seen].astype(np.float32)


class Expert:
    """Linear policy of positions and velocities, with estimates for the hidden ones.

    Hidden velocities are estimated from the difference of the last two positions, as 0 at an episode's start. Hidden
    positions are estimated as the sum of all velocities so far, from 0. This sum is wrong by the unknown initial
    position. Both estimates are good enough for 500 steps.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._hidden = config.hide

    def predict(
        self,
        observation: NDArray[np.float32] | dict[str, NDArray[np.float32]],
        state: NDArray[np.float64] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Choose an action for each of n environments.

        Args:
            observation: (n, 2) or (n, 4), or a Dict with this array under "observation".
            state: Positions (n, 2) in m and rad: those of the previous step, or estimates for this step if positions
                are hidden. NaN where there are none yet. None means all NaN.
            episode_start: (n,), True where the observation is an episode's first. The state is reset there.
            deterministic: Unused, since the expert is deterministic.

        Returns:
            Actions (n,) and the next state.
        """
        observation = observation["observation"] if isinstance(observation, dict) else observation
        seen = observation * _UNITS[list(_SEEN[self._hidden])]
        before = np.full((len(seen), 2), np.nan) if state is None else state.copy()
        if episode_start is not None:
            before[episode_start] = np.nan
        known = ~np.isnan(before)
        if self._hidden == "velocities":
            positions, velocities = seen, np.where(known, seen - before, 0) / _DT
        elif self._hidden == "positions":
            positions, velocities = np.where(known, before, 0), seen
        else:
            positions, velocities = seen[:, ::2], seen[:, 1::2]
        push = positions @ _GAINS[::2] + velocities @ _GAINS[1::2]
        state = positions + _DT * velocities if self._hidden == "positions" else positions
        return np.where(push > 0, RIGHT, LEFT), state


make = CartPoleHidden
