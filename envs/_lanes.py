"""What natively vectorised tasks share: lanes stepped together in NumPy, each with a random stream of its own.

A task's rules stand once, in a subclass of `Lanes`; its single environment is a `Lane`, one lane of those. A lane's
run follows from its own seed and actions alone, whatever its neighbours do, so lane i of `Lanes` seeded with s is the
run of a `Lane` seeded with s + i.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pydantic import AfterValidator

from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.errors import UsageError

Bools = NDArray[np.bool_]


def _ordered(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError("the shortest length comes first")
    return bounds


Ordered = AfterValidator(_ordered)
"""Of a tuple's two numbers the second isn't the smaller one: `Annotated[tuple[Length, Length], Ordered]`."""


class Streams:
    """A random stream for each lane: SplitMix64 (Steele, Lea and Flood, 2014), started from the lane's seed."""

    def __init__(self, lanes: int) -> None:
        self.seeded = False
        self._states = np.zeros(lanes, np.uint64)

    def seed(self, seed: int | Sequence[int | None] | None) -> None:
        """Start the streams anew.

        Args:
            seed: Lane i's is `seed + i`, or `seed[i]`; with None a lane goes on with its stream, and draws a fresh one
                when it has none yet.

        Raises:
            UsageError: a list of seeds of the wrong length.
        """
        lanes = len(self._states)
        seeds = [seed + lane for lane in range(lanes)] if isinstance(seed, int) else seed
        seeds = [None] * lanes if seeds is None else seeds
        if len(seeds) != lanes:
            raise UsageError(f"seed={seeds!r}: a list of seeds needs one for each of the {lanes} lanes")
        for lane, each in enumerate(seeds):
            if each is not None or not self.seeded:
                self._states[lane] = seeding.np_random(each)[0].integers(2**64, dtype=np.uint64)
        self.seeded = True

    def draw(self, lanes: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.uint64]:
        """Draw 64 random bits from each of some lanes, uint64 (lanes,)."""
        self._states[lanes] += np.uint64(0x9E3779B97F4A7C15)
        z = self._states[lanes]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Outcome(NamedTuple):
    """What a step led to in every lane."""

    observations: NDArray[np.float32]  # (N, ...)
    rewards: NDArray[np.float64]  # (N,)
    terminations: Bools  # (N,)
    truncations: Bools  # (N,)
    successes: Bools  # (N,), read where an episode ends


class Lanes(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """Environments side by side, with Gymnasium's next-step autoreset and actions 0..n-1.

    A subclass says how an episode begins and what a step does, for all lanes at once. To begin one is a step too,
    with the action n, which leaves a lane where `_start` put it: its observation is the episode's first.

    Args:
        num_envs: Number of lanes, N.
        render_mode: None, or "rgb_array".
        observation_space: Of one lane.
        action_space: Of one lane, from 0.

    Raises:
        UsageError: a bad argument.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it without ClassVar
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    ended: Bools
    """(N,): lanes whose episode is over; their next step ignores the action and starts the next episode."""

    def __init__(
        self, num_envs: int, render_mode: str | None, observation_space: spaces.Box, action_space: spaces.Discrete
    ) -> None:
        if num_envs < 1:
            raise UsageError(f"num_envs={num_envs}: must be at least 1")
        check_render_mode(render_mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._actions = int(action_space.n)  # how many there are, and the one that begins an episode
        self._streams = Streams(num_envs)
        self.ended = np.ones(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every lane.

        Args:
            seed: Lane i's seed is `seed + i`, or `seed[i]`; None goes on with the lane's random stream.
            options: Must be empty.

        Returns:
            Observations (N, ...) and an empty info.

        Raises:
            UsageError: a list of seeds of the wrong length, or any options.
        """
        check_no_options(options)
        self._streams.seed(seed)
        self._start(np.arange(self.num_envs))
        observations, _, terminations, truncations, _ = self._advance(np.full(self.num_envs, self._actions))
        self.ended = terminations | truncations
        return observations, {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take one step in every lane.

        Args:
            actions: Integers in 0..n-1 (N,).

        Returns:
            Observations, rewards, terminations, truncations, and, when an episode ended, `is_success` and the mask
            `_is_success` of the lanes where it did, both bool (N,).

        Raises:
            UsageError: actions of another shape or type, or out of range.
            ResetNeeded: before the first `reset`.
        """
        if not self._streams.seeded:
            raise ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        fits = actions.shape == (self.num_envs,) and actions.dtype.kind in "iu"
        if not fits or (actions < 0).any() or (actions >= self._actions).any():
            raise UsageError(f"actions={actions!r}: must be {self.num_envs} integers in 0..{self._actions - 1}")
        if self.ended.any():
            self._start(np.flatnonzero(self.ended))
            actions = np.where(self.ended, self._actions, actions)
        observations, rewards, terminations, truncations, successes = self._advance(actions)
        self.ended = terminations | truncations
        infos = {"is_success": successes, "_is_success": self.ended.copy()} if self.ended.any() else {}
        return observations, rewards, terminations, truncations, infos

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Draw each lane: uint8 (height, width, 3).

        Raises:
            UsageError: made without `render_mode="rgb_array"`.
        """
        check_drawable(self.render_mode)
        return tuple(self._picture(lane) for lane in range(self.num_envs))

    @abstractmethod
    def _start(self, lanes: NDArray[np.int64]) -> None:
        """Put some lanes (by number) before the first observation of their next episode."""

    @abstractmethod
    def _advance(self, actions: NDArray[np.int64]) -> Outcome:
        """Do what the actions (N,) do, or make the first observation where it is n; all arrays are new ones."""

    @abstractmethod
    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw a lane: uint8 (height, width, 3)."""


class Lane(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One environment: spaces, rules and options as in its `Lanes`, without the leading axis and without autoreset.

    Args:
        lanes: One lane.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.render_mode = lanes.render_mode
        self.observation_space, self.action_space = lanes.single_observation_space, lanes.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode: its first observation and an empty info. Arguments as in `Lanes.reset`."""
        super().reset(seed=seed)
        return self._lanes.reset(seed=seed, options=options)[0][0], {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            UsageError: an action that there isn't.
            ResetNeeded: before the first `reset`, or after the episode's end.
        """
        check_running(not self._lanes.ended[0])
        observations, rewards, terminated, truncated, infos = self._lanes.step(np.array([action]))
        info = {"is_success": bool(infos["is_success"][0])} if infos else {}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8]:
        """Draw it: uint8 (height, width, 3).

        Raises:
            UsageError: made without `render_mode="rgb_array"`.
        """
        return self._lanes.render()[0]
