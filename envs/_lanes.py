"""Base classes of natively vectorised tasks: NumPy steps all environments at once, each with its own random stream.

A lane is one environment of a vector environment. A task's rules are written once, in a subclass of `Lanes`. The task's
single environment is a `Lane`, which wraps a `Lanes` of size 1. A lane's episodes depend only on its own seed and
actions, not on other lanes. Lane i of a `Lanes` seeded with s thus plays what a `Lane` seeded with s + i plays.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pydantic import AfterValidator

from rmt_rl.config import Frozen
from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.errors import UsageError
from rmt_rl.lives import SAME_TASK

Bools = NDArray[np.bool_]
ConfigT = TypeVar("ConfigT", bound=Frozen)


def _ordered(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError("the shortest length comes first")
    return bounds


Ordered = AfterValidator(_ordered)
"""Annotation that requires first <= second in a pair of numbers: `Annotated[tuple[Length, Length], Ordered]`."""


class LaneGenerators:
    """One random stream for each lane: SplitMix64 (Steele, Lea and Flood, 2014), started from the lane's seed."""

    def __init__(self, lanes: int) -> None:
        self.seeded = False
        self._states = np.zeros(lanes, np.uint64)
        self._marks = self._states.copy()

    def seed(self, seed: int | Sequence[int | None] | None) -> None:
        """Restart the streams.

        Args:
            seed: Lane i's seed is `seed + i`, or `seed[i]` of a list. With None a lane continues its stream, or starts
                an unpredictable one if it has none yet.

        Raises:
            UsageError: a list of seeds has the wrong length.
        """
        lanes = len(self._states)
        seeds = [seed + lane for lane in range(lanes)] if isinstance(seed, int) else seed
        seeds = [None] * lanes if seeds is None else seeds
        if len(seeds) != lanes:
            raise UsageError(f"seed={seeds!r}: a list of seeds needs one seed for each of the {lanes} environments")
        for lane, each in enumerate(seeds):
            if each is not None or not self.seeded:
                self._states[lane] = seeding.np_random(each)[0].integers(2**64, dtype=np.uint64)
        self.seeded = True

    def mark(self, lanes: NDArray[np.int64]) -> None:
        """Remember where the streams of the given lanes stand."""
        self._marks[lanes] = self._states[lanes]

    def rewind(self, lanes: NDArray[np.int64]) -> None:
        """Put the streams of the given lanes back to their marks, so that they draw the same numbers again."""
        self._states[lanes] = self._marks[lanes]

    def draw(self, lanes: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.uint64]:
        """Draw 64 random bits for each of the given lanes, uint64 (lanes,)."""
        self._states[lanes] += np.uint64(0x9E3779B97F4A7C15)
        z = self._states[lanes]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Transition(NamedTuple):
    """Result of one step in all N lanes."""

    observations: NDArray[np.float32]  # (N, ...)
    rewards: NDArray[np.float64]  # (N,)
    terminations: Bools  # (N,)
    truncations: Bools  # (N,)
    successes: Bools  # (N,), read only where an episode ends


class Lanes(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]], Generic[ConfigT]):
    """Vector environment with Gymnasium's next-step autoreset and actions 0..n-1.

    A subclass defines how an episode begins (`_start`) and what a step does (`_advance`), for all lanes at once. The
    beginning of an episode is also a step, with the extra action n. This action leaves a lane where `_start` put it,
    and the resulting observation is the episode's first.

    Args:
        num_envs: Number of environments, N.
        render_mode: None or "rgb_array".
        observation_space: Observation space of one environment.
        action_space: Action space of one environment; its actions start at 0.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it without ClassVar
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        SAME_TASK: True,
    }

    config: ConfigT
    """Options, the task's `Config`."""

    ended: Bools
    """(N,), True for lanes whose episode has ended. Their next step ignores the action and starts the next episode."""

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
        self._actions = int(action_space.n)  # the number of actions n, and the extra action that begins an episode
        self._streams = LaneGenerators(num_envs)
        self.ended = np.ones(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every environment.

        Args:
            seed: Environment i's seed is `seed + i`, or `seed[i]` of a list. None continues the random streams.
            options: `{"same_task": True}` starts another episode of the same task, see `begin_again`; or empty.

        Returns:
            Observations (N, ...) and an empty info.

        Raises:
            UsageError: a list of seeds has the wrong length, `options` holds anything else, or a seed is given for
                the same task.
            ResetNeeded: the same task is asked for, but there was none yet.
        """
        lanes = np.arange(self.num_envs)
        if options == {SAME_TASK: True}:
            if seed is not None:
                raise UsageError(f"seed={seed!r}: the same task needs no seed; leave out the seed or {SAME_TASK!r}")
            self._check_begun()
            return self.begin_again(lanes), {}
        check_no_options(options)
        self._streams.seed(seed)
        self._begin_task(lanes)
        observations, _, terminations, truncations, _ = self._advance(np.full(self.num_envs, self._actions))
        self.ended = terminations | truncations
        return observations, {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take one step in every environment.

        Args:
            actions: Integers in 0..n-1 (N,).

        Returns:
            Observations, rewards, terminations, truncations and infos. If an episode ended, infos hold `is_success` and
            `_is_success`, the mask of the environments whose episode ended, both bool (N,).

        Raises:
            UsageError: the actions have another shape or type, or are out of range.
            ResetNeeded: `reset` was never called.
        """
        self._check_begun()
        actions = np.asarray(actions)
        fits = actions.shape == (self.num_envs,) and actions.dtype.kind in "iu"
        if not fits or (actions < 0).any() or (actions >= self._actions).any():
            raise UsageError(f"actions={actions!r}: must be {self.num_envs} integers in 0..{self._actions - 1}")
        if self.ended.any():
            self._begin_task(np.flatnonzero(self.ended))
            actions = np.where(self.ended, self._actions, actions)
        observations, rewards, terminations, truncations, successes = self._advance(actions)
        self.ended = terminations | truncations
        infos = {"is_success": successes, "_is_success": self.ended.copy()} if self.ended.any() else {}
        return observations, rewards, terminations, truncations, infos

    def begin_again(self, lanes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start another episode of the same task in these lanes at once. The other lanes stay as they are.

        Args:
            lanes: Indices of lanes (n,).

        Returns:
            First observations of these lanes (n, ...).
        """
        others = np.ones(self.num_envs, bool)
        others[lanes] = False
        kept = self._rows(others)
        self._start_again(lanes)
        self._start(np.flatnonzero(others & self.ended))  # since no lane can be advanced behind its end
        observations, _, terminations, truncations, _ = self._advance(np.full(self.num_envs, self._actions))
        for owner, name, rows in kept:
            getattr(owner, name)[others] = rows
        self.ended[lanes] = (terminations | truncations)[lanes]
        return observations[lanes]

    def _rows(self, lanes: Bools) -> list[tuple[object, str, NDArray[Any]]]:
        """Return copies of the rows of these lanes in every array with a row for each lane: owner, name, rows."""
        return [
            (owner, name, value[lanes])
            for owner in (self, self._streams)
            for name, value in vars(owner).items()
            if isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        ]

    def _check_begun(self) -> None:
        if not self._streams.seeded:
            raise ResetNeeded("call reset() first")

    def _begin_task(self, lanes: NDArray[np.int64]) -> None:
        self._streams.mark(lanes)
        self._start(lanes)

    def _start_again(self, lanes: NDArray[np.int64]) -> None:
        """Set these lanes to the state before the first observation of another episode of the same task.

        Here the task is everything that is drawn at random, so an episode draws the same numbers again. A task that
        tells its task from its episodes defines both `_start` and this method.
        """
        self._streams.rewind(lanes)
        self._start(lanes)

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Draw each environment, one uint8 (height, width, 3) for each.

        Raises:
            UsageError: the environment was made without `render_mode="rgb_array"`.
        """
        check_drawable(self.render_mode)
        return tuple(self._picture(lane) for lane in range(self.num_envs))

    @abstractmethod
    def _start(self, lanes: NDArray[np.int64]) -> None:
        """Set the lanes with these indices to the state before the first observation of their next episode."""

    @abstractmethod
    def _advance(self, actions: NDArray[np.int64]) -> Transition:
        """Apply the actions (N,), or make the first observation where the action is n. All returned arrays are new."""

    @abstractmethod
    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw one lane: uint8 (height, width, 3)."""


class Lane(gymnasium.Env[NDArray[np.float32], np.int64], Generic[ConfigT]):
    """Single environment with the spaces, rules and options of its `Lanes`, without batch axis and autoreset.

    A subclass names the class of its `Lanes` by `vector`.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of the task's `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    vector: Callable[..., Lanes[ConfigT]]
    config: ConfigT

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10, SAME_TASK: True}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self._lanes = lanes = self.vector(1, render_mode, **options)
        self.config = lanes.config
        self.render_mode = lanes.render_mode
        self.observation_space, self.action_space = lanes.single_observation_space, lanes.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode. Return its first observation and an empty info. Arguments as in `Lanes.reset`."""
        super().reset(seed=seed)
        return self._lanes.reset(seed=seed, options=options)[0][0], {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            UsageError: the action is not in the action space.
            ResetNeeded: `reset` was never called, or the episode has ended.
        """
        check_running(not self._lanes.ended[0])
        observations, rewards, terminated, truncated, infos = self._lanes.step(np.array([action]))
        info = {"is_success": bool(infos["is_success"][0])} if infos else {}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8]:
        """Draw the environment: uint8 (height, width, 3).

        Raises:
            UsageError: the environment was made without `render_mode="rgb_array"`.
        """
        return self._lanes.render()[0]
