"""T-Maze: recall, at a corridor's end (1-88 cells, 3-90 steps), the side hinted in the first observation.

The defaults are the passive T-Maze of RATE (Cherepanov et al., 2023, arXiv:2306.09459); the options add the variants of
Ni et al. (2023, "When Do Transformers Shine in RL?", arXiv:2307.03864). Positions count cells from the start:

               goal  (length, +1)
    o--s-------j     o: oracle (-oracle_length, 0), shows the hint     s: start (0, 0)
               goal  (length, -1)                                      j: junction (length, 0)

The rules stand once, in `TMazeVector`; `TMaze` is one lane of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from rmt_rl.config import validated
from rmt_rl.errors import UsageError

ID = "rmt_rl/TMaze-v0"

RIGHT, UP, LEFT, DOWN = range(4)
_STAY = 4  # what a lane does while it is reset; not an action
_DX = np.array([1, 0, -1, 0, 0])
_DY = np.array([0, 1, 0, -1, 0])

_CELL, _VIEW = 16, 41  # of a picture: pixels a cell, most columns shown
_WALL, _FLOOR, _FADED = (40, 44, 52), (235, 235, 230), (130, 132, 134)
_ORACLE, _GOAL, _OTHER, _AGENT = (86, 180, 233), (0, 158, 115), (213, 94, 0), (20, 20, 20)


def _ordered(lengths: tuple[int, int]) -> tuple[int, int]:
    if lengths[0] > lengths[1]:
        raise ValueError("the shortest length comes first")
    return lengths


Length = Annotated[int, Field(ge=1, le=10**9)]
LengthRange = Annotated[tuple[Length, Length], AfterValidator(_ordered)]


class Config(BaseModel, frozen=True, extra="forbid"):
    """Options of the T-Maze; the defaults are RATE's training task, at most 90 steps long."""

    corridor_length: Length | LengthRange = Field(
        (1, 88),
        description="cells from start to junction: a number >= 1, or an inclusive range [low, high] to draw from",
    )
    oracle_length: int = Field(
        0, ge=0, le=10**9, description="cells from the oracle, left of the start, to the start: 0 passive, >= 1 active"
    )
    ambiguous_position: bool = Field(True, description="leave the position along the corridor out of the observation")
    goal_reward: float = Field(1.0, gt=0, allow_inf_nan=False, description="reward at the right goal, > 0")
    penalty: float = Field(
        0.0, le=0, allow_inf_nan=False, description="reward (<= 0) of each step that ends behind the fastest agent"
    )

    @property
    def lengths(self) -> tuple[int, int]:
        """The shortest and the longest corridor."""
        length = self.corridor_length
        return (length, length) if isinstance(length, int) else length


class TMazeVector(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """T-Mazes side by side, in NumPy. Gymnasium's next-step autoreset.

    Each lane draws from a random stream of its own, so that lane i of a run seeded with s is the run of a `TMaze`
    seeded with s + i, whatever its neighbours do.

    Observations: float32 (num_envs, 4): y in {-1, 0, 1}; hint, the goal's y, once, at the first visit of the oracle
    (passive: in the first observation), else 0; flag, 1 at the junction, else 0; noise, uniform in {-1, 0, 1}.
    With `ambiguous_position=False` a fifth: the distance from the oracle over that from oracle to junction. It is
    scaled so that it stays in [0, 1] in a corridor of any length, and one observation space serves all of them.

    Actions: 0 right, 1 up, 2 left, 3 down; moves into a wall do nothing.

    Rewards: float64 (num_envs,): `goal_reward` at the right goal. Before an episode's last step, `penalty` where
    x < min(t - 2 oracle_length, length): further left after t steps than an agent that goes to the oracle, then
    to the goal (Ni et al., 2023).

    An episode terminates at either goal and is truncated after length + 2 + 2 oracle_length steps, the fewest that
    are needed and one to spare. Its last info holds `is_success`, True when it ended at the right goal.

    Args:
        num_envs: Number of lanes.
        render_mode: None, or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: a bad argument.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it without ClassVar
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    ended: NDArray[np.bool_]
    """(num_envs,): lanes whose episode is over; their next step ignores the action and starts the next episode."""

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        if num_envs < 1:
            raise UsageError(f"num_envs={num_envs}: must be at least 1")
        if render_mode not in (None, "rgb_array"):
            raise UsageError(f"render_mode={render_mode!r}: must be None or 'rgb_array'")
        self.num_envs, self.render_mode = num_envs, render_mode
        position = [] if self.config.ambiguous_position else [[0, 1]]
        low, high = np.array([[-1, 1], [-1, 1], [0, 1], [-1, 1], *position], np.float32).T
        self.single_observation_space = spaces.Box(low, high, dtype=np.float32)
        self.single_action_space = spaces.Discrete(4)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._streams: NDArray[np.uint64] | None = None
        self._x, self._y, self._goal, self._length, self._time, self._limit = np.zeros((6, num_envs), np.int64)
        self._unseen = self._goal.copy()  # the hint that the oracle still has to show; 0 once it has
        self.ended = np.ones(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every lane.

        Args:
            seed: Lane i's seed is `seed + i`, or `seed[i]`; None goes on with the lane's random stream.
            options: Must be empty.

        Returns:
            Observations (num_envs, 4 or 5) and an empty info.

        Raises:
            UsageError: a list of seeds of the wrong length, or any options.
        """
        if options:
            raise UsageError(
                f"options={options!r}: resetting the T-Maze takes none; its options are given when it is made"
            )
        self._seed([seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else seed)
        self._start(np.arange(self.num_envs))
        return self._advance(np.full(self.num_envs, _STAY))[0], {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take one step in every lane.

        Args:
            actions: Integers in 0..3 (num_envs,).

        Returns:
            Observations, rewards, terminations, truncations, and, when an episode ended, `is_success` and the mask
            `_is_success` of the lanes where it did, both bool (num_envs,).

        Raises:
            UsageError: actions of another shape or type, or out of range.
            ResetNeeded: before the first `reset`.
        """
        if self._streams is None:
            raise ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu" or (actions >> 2).any():
            raise UsageError(f"actions={actions!r}: must be {self.num_envs} integers in 0..3")
        if self.ended.any():
            self._start(np.flatnonzero(self.ended))
            actions = np.where(self.ended, _STAY, actions)
        return self._advance(actions)

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Draw each lane: uint8 (80, width, 3); of a long corridor the part around the agent.

        The agent is black, the oracle blue, the right goal green, the other orange; where the corridor goes on beyond
        the picture's edge, the edge is grey.

        Raises:
            UsageError: made without `render_mode="rgb_array"`.
        """
        if self.render_mode is None:
            raise UsageError("render_mode=None: make the environment with render_mode='rgb_array' to draw it")
        return tuple(self._picture(lane) for lane in range(self.num_envs))

    def _seed(self, seeds: Sequence[int | None] | None) -> None:
        seeds = [None] * self.num_envs if seeds is None else seeds
        if len(seeds) != self.num_envs:
            raise UsageError(f"seed={seeds!r}: a list of seeds needs one for each of the {self.num_envs} lanes")
        fresh = self._streams is None
        if self._streams is None:
            self._streams = np.zeros(self.num_envs, np.uint64)
        for lane, seed in enumerate(seeds):
            if fresh or seed is not None:
                self._streams[lane] = seeding.np_random(seed)[0].integers(2**64, dtype=np.uint64)

    def _draw(self, lanes: slice | NDArray[np.int64]) -> NDArray[np.uint64]:
        """Draw 64 random bits from each lane's stream: SplitMix64 (Steele, Lea and Flood, 2014)."""
        assert self._streams is not None
        self._streams[lanes] += np.uint64(0x9E3779B97F4A7C15)
        z = self._streams[lanes]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def _start(self, lanes: NDArray[np.int64]) -> None:
        """Put lanes before their next episode; the step that follows, in place, makes the first observation."""
        low, high = self.config.lengths
        bits = self._draw(lanes)
        length = low + (bits >> 1).astype(np.int64) % (high - low + 1)
        self._goal[lanes] = self._unseen[lanes] = np.where(bits & 1, 1, -1)
        self._length[lanes] = length
        self._limit[lanes] = length + 2 + 2 * self.config.oracle_length
        self._x[lanes], self._time[lanes] = 0, -1

    def _advance(
        self, moves: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        config = self.config
        self._time += 1
        self._x += _DX[moves]
        np.minimum(np.maximum(self._x, -config.oracle_length, out=self._x), self._length, out=self._x)
        at_end = self._x == self._length
        np.multiply(_DY[moves], at_end, out=self._y)
        terminated = self._y != 0
        truncated = (self._time >= self._limit) & ~terminated
        self.ended = terminated | truncated

        won = self._y == self._goal
        rewards = won * config.goal_reward
        if config.penalty:
            fastest = np.minimum(self._time - 2 * config.oracle_length, self._length)
            rewards += config.penalty * ((self._x < fastest) & ~self.ended)
        infos = {"is_success": won, "_is_success": self.ended.copy()} if self.ended.any() else {}
        return self._observe(at_end & ~terminated), rewards, terminated, truncated, infos

    def _observe(self, at_junction: NDArray[np.bool_]) -> NDArray[np.float32]:
        oracle = -self.config.oracle_length
        hint = self._unseen * (self._x == oracle)
        self._unseen -= hint
        observations = np.empty(self.observation_space.shape or (), np.float32)
        observations[:, 0] = self._y
        observations[:, 1] = hint
        observations[:, 2] = at_junction
        observations[:, 3] = self._draw(slice(None)) % 3
        observations[:, 3] -= 1
        if not self.config.ambiguous_position:
            observations[:, 4] = (self._x - oracle) / (self._length - oracle)
        return observations

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        x, y, goal, length = (int(each[lane]) for each in (self._x, self._y, self._goal, self._length))
        oracle = -self.config.oracle_length
        width = min(self.config.lengths[1] + 1 - oracle, _VIEW)
        left = max(min(x - width // 2, length + 1 - width), oracle)
        columns = np.arange(left - 1, left + width + 1)  # with an edge on either side
        cells = np.full((5, width + 2, 3), _WALL, np.uint8)
        cells[2, (columns >= oracle) & (columns <= length)] = _FLOOR
        cells[2, columns == oracle] = _ORACLE
        cells[2 - goal, columns == length], cells[2 + goal, columns == length] = _GOAL, _OTHER
        edges = cells[:, [0, -1]]
        cells[:, [0, -1]] = np.where((edges == _WALL).all(-1, keepdims=True), edges, np.array(_FADED, np.uint8))
        image = cells.repeat(_CELL, 0).repeat(_CELL, 1)
        image[::_CELL] = image[:, ::_CELL] = _WALL
        top, side = (2 - y) * _CELL, (x - left + 1) * _CELL
        image[top + 4 : top + _CELL - 3, side + 4 : side + _CELL - 3] = _AGENT
        return image


class TMaze(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One T-Maze: spaces, rules and options as in `TMazeVector`, without the leading axis and without autoreset."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self._lanes = TMazeVector(1, render_mode, **options)
        self.config, self.render_mode = self._lanes.config, render_mode
        self.observation_space = self._lanes.single_observation_space
        self.action_space = self._lanes.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode: float32 (4,) or (5,), and an empty info. Arguments as in `TMazeVector.reset`."""
        super().reset(seed=seed)
        return self._lanes.reset(seed=seed, options=options)[0][0], {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            UsageError: an action other than 0..3.
            ResetNeeded: before the first `reset`, or after the episode's end.
        """
        if self._lanes.ended[0]:
            raise ResetNeeded("no episode is running: call reset() before step()")
        observations, rewards, terminated, truncated, infos = self._lanes.step(np.array([action]))
        info = {"is_success": bool(infos["is_success"][0])} if infos else {}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8]:
        """Draw the maze: uint8 (80, width, 3); see `TMazeVector.render`."""
        return self._lanes.render()[0]


class Expert:
    """The optimal policy: to the oracle if the hint isn't known, then right, then to the hinted side.

    Args:
        config: Options of the environment it plays.
        seed: Not needed, it never draws.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._active = config.oracle_length > 0

    def predict(
        self,
        observation: NDArray[np.float32] | dict[str, NDArray[np.float32]],
        state: NDArray[np.float32] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Choose an action for each of n lanes.

        Args:
            observation: (n, 4 or 5), or a Dict with these under "observation".
            state: The remembered hints (n,), 0 where none has been seen; None is all 0.
            episode_start: (n,), True where the observation is an episode's first: its hint is forgotten.
            deterministic: Not needed, it always is.

        Returns:
            Actions (n,) and the next state. Without a hint at the passive maze's junction, it goes up.
        """
        observation = observation["observation"] if isinstance(observation, dict) else observation
        hint, at_junction = observation[:, 1], observation[:, 2] == 1
        known = np.zeros_like(hint) if state is None else state
        if episode_start is not None:
            known = np.where(episode_start, np.float32(0), known)
        known = np.where(hint != 0, hint, known)
        actions = np.where(at_junction, np.where(known < 0, DOWN, UP), RIGHT)
        return np.where((known == 0) & self._active, LEFT, actions), known


make = TMaze
make_vec = TMazeVector
