"""T-Maze: 3-90 steps; recall, at the end of a corridor of 1-88 cells, the side hinted in the first observation.

The defaults are the passive T-Maze of RATE (Cherepanov et al., 2023, arXiv:2306.09459). The options add the variants of
Ni et al. (2023, "When Do Transformers Shine in RL?", arXiv:2307.03864). Positions count cells from the start:

               goal  (length, +1)
    o--s-------j     o: oracle (-oracle_length, 0), shows the hint     s: start (0, 0)
               goal  (length, -1)                                      j: junction (length, 0)

The rules are written once, in `TMazeVector`. `TMaze` wraps a `TMazeVector` of size 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._lanes import Lane, Lanes, Ordered, Transition

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/TMaze-v0"

RIGHT, UP, LEFT, DOWN = range(4)
_DX = np.array([1, 0, -1, 0, 0])  # the last entry: the extra action of `Lanes` that begins an episode
_DY = np.array([0, 1, 0, -1, 0])

_CELL, _VIEW = 16, 41  # of a picture: pixels per cell, most columns shown
_WALL, _FLOOR, _FADED = (40, 44, 52), (235, 235, 230), (130, 132, 134)
_ORACLE, _GOAL, _OTHER, _AGENT = (86, 180, 233), (0, 158, 115), (213, 94, 0), (20, 20, 20)


Length = Annotated[int, Field(ge=1, le=10**9)]
LengthRange = Annotated[tuple[Length, Length], Ordered]


class Config(Frozen):
    """Options of the T-Maze. The defaults are RATE's training task, at most 90 steps long."""

    corridor_length: Length | LengthRange = Field(
        (1, 88),
        description="cells from start to junction: a number >= 1, or an inclusive range [low, high] to draw from",
    )
    oracle_length: int = Field(
        0, ge=0, le=10**9, description="cells from the oracle, left of the start, to the start: 0 passive, >= 1 active"
    )
    ambiguous_position: bool = Field(True, description="omit the position along the corridor from the observation")
    goal_reward: float = Field(1.0, gt=0, allow_inf_nan=False, description="reward at the right goal, > 0")
    penalty: float = Field(
        0.0, le=0, allow_inf_nan=False, description="reward (<= 0) for each step that ends behind the fastest agent"
    )

    @property
    def lengths(self) -> tuple[int, int]:
        """Length of the shortest and of the longest corridor, in cells."""
        length = self.corridor_length
        return (length, length) if isinstance(length, int) else length


class TMazeVector(Lanes[Config]):
    """Vectorised T-Mazes in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 4): y in {-1, 0, 1}; hint, which is the goal's y at the first visit of the oracle
    (passive: in the first observation), else 0; flag, 1 at the junction, else 0; noise, uniform in {-1, 0, 1}.
    With `ambiguous_position=False` there is a fifth: the distance from the oracle, divided by the distance from oracle
    to junction. The quotient stays in [0, 1] for any corridor length, so one observation space serves all lengths.

    Actions: 0 right, 1 up, 2 left, 3 down. A move into a wall does nothing.

    Rewards: float64 (num_envs,): `goal_reward` at the right goal. All steps but an episode's last give `penalty` if
    x < min(t - 2 oracle_length, length). The agent is then further left after t steps than an agent that goes to the
    oracle and then to the goal (Ni et al., 2023).

    An episode terminates at either goal. It is truncated after length + 2 + 2 oracle_length steps: the fewest steps
    needed, and one to spare. The last info holds `is_success`, True if the episode ended at the right goal.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        position = [] if self.config.ambiguous_position else [[0, 1]]
        low, high = np.array([[-1, 1], [-1, 1], [0, 1], [-1, 1], *position], np.float32).T
        super().__init__(num_envs, render_mode, spaces.Box(low, high, dtype=np.float32), spaces.Discrete(4))
        self._x, self._y, self._goal, self._length, self._time, self._limit = np.zeros((6, num_envs), np.int64)
        self._unseen = self._goal.copy()  # the hint that the oracle has yet to show; 0 once shown

    def _start(self, lanes: NDArray[np.int64]) -> None:
        low, high = self.config.lengths
        bits = self._streams.draw(lanes)
        length = low + (bits >> 1).astype(np.int64) % (high - low + 1)
        self._goal[lanes] = self._unseen[lanes] = np.where(bits & 1, 1, -1)
        self._length[lanes] = length
        self._limit[lanes] = length + 2 + 2 * self.config.oracle_length
        self._x[lanes], self._time[lanes] = 0, -1

    def _advance(self, actions: NDArray[np.int64]) -> Transition:
        config = self.config
        self._time += 1
        self._x += _DX[actions]
        np.minimum(np.maximum(self._x, -config.oracle_length, out=self._x), self._length, out=self._x)
        at_end = self._x == self._length
        np.multiply(_DY[actions], at_end, out=self._y)
        terminated = self._y != 0
        truncated = (self._time >= self._limit) & ~terminated

        won = self._y == self._goal
        rewards = won * config.goal_reward
        if config.penalty:
            fastest = np.minimum(self._time - 2 * config.oracle_length, self._length)
            rewards += config.penalty * ((self._x < fastest) & ~terminated & ~truncated)
        return Transition(self._observe(at_end & ~terminated), rewards, terminated, truncated, won)

    def _observe(self, at_junction: NDArray[np.bool_]) -> NDArray[np.float32]:
        oracle = -self.config.oracle_length
        hint = self._unseen * (self._x == oracle)
        self._unseen -= hint
        observations = np.empty(self.observation_space.shape or (), np.float32)
        observations[:, 0] = self._y
        observations[:, 1] = hint
        observations[:, 2] = at_junction
        observations[:, 3] = self._streams.draw() % 3
        observations[:, 3] -= 1
        if not self.config.ambiguous_position:
            observations[:, 4] = (self._x - oracle) / (self._length - oracle)
        return observations

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw the maze: uint8 (80, width, 3). Of a long corridor, draw only the part around the agent.

        The agent is black, the oracle blue, the right goal green, and the other goal orange. An edge of the picture is
        grey where the corridor continues beyond it.
        """
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


class TMaze(Lane[Config]):
    """Single T-Maze: a `TMazeVector` of size 1, without batch axis and autoreset."""

    vector = TMazeVector


class Expert:
    """Optimal policy: go to the oracle if the hint isn't known, then right, then to the hinted side.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
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
        """Choose an action for each of n environments.

        Args:
            observation: (n, 4 or 5), or a Dict with this array under "observation".
            state: The remembered hints (n,), 0 where no hint has been seen. None means all 0.
            episode_start: (n,), True where the observation is an episode's first. The old hint is forgotten there.
            deterministic: Unused, since the expert is deterministic.

        Returns:
            Actions (n,) and the next state. At the passive maze's junction without a known hint, the action is up.
        """
        observation = observation["observation"] if isinstance(observation, dict) else observation
        hint, at_junction = observation[:, 1], observation[:, 2] == 1
        known = np.zeros_like(hint) if state is None else state
        if episode_start is not None:
            known = np.where(episode_start, np.float32(0), known)
        known = np.where(hint != 0, hint, known)
        actions = np.where(at_junction, np.where(known < 0, DOWN, UP), RIGHT)
        return np.where((known == 0) & self._active, LEFT, actions), known


def decisive(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps at the junction, where the hint must be known."""
    at_junction: NDArray[np.bool_] = _seen(trajectory)[:, 2] == 1
    return at_junction


def idle(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps without hint that aren't at the junction."""
    shows_nothing: NDArray[np.bool_] = _seen(trajectory)[:, 1] == 0
    return shows_nothing & ~decisive(trajectory)


def _seen(trajectory: Trajectory) -> NDArray[np.float32]:
    """Return the observations (T, N) of all steps."""
    seen = trajectory.observations
    return np.asarray(seen["observation"] if isinstance(seen, dict) else seen)[:-1]


make = TMaze
make_vec = TMazeVector
