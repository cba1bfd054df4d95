"""T-Maze without a hint: 3-10 steps an episode, 10 episodes a life; find out once on which side the goal is, then know.

The maze is that of `tmaze` without oracle and hint: a corridor that ends at a junction, with the goal on one side. The
side stays during a life, and nothing but the reward tells it. The corridor's length is drawn for each episode. So the
first episode is a guess, and all later ones can be sure.

The rules are written once, in `TMazeWithoutHintVector`. `TMazeWithoutHint` wraps one of size 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._lanes import Lane, Lanes, Ordered, Transition
from rmt_rl.envs._lives import seen_of
from rmt_rl.envs.tmaze import DOWN, RIGHT, UP

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/TMazeWithoutHint-v0"
LIFETIME = 10

_DX = np.array([1, 0, -1, 0, 0])  # the last entry: the extra action of `Lanes` that begins an episode
_DY = np.array([0, 1, 0, -1, 0])
_FLAG = 1  # the observation's number that shows the junction
_CELL = 16  # pixels of a picture
_WALL, _FLOOR, _GOAL, _OTHER, _AGENT = (40, 44, 52), (235, 235, 230), (0, 158, 115), (213, 94, 0), (20, 20, 20)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Length = Annotated[int, Field(ge=1, le=100)]


class Config(Frozen):
    """Options of the T-Maze without a hint. The defaults are the training task."""

    corridor_length: Length | Annotated[tuple[Length, Length], Ordered] = Field(
        (1, 8), description="cells from start to junction: a number from 1 to 100, or an inclusive range [low, high]"
    )

    @property
    def lengths(self) -> tuple[int, int]:
        """Length of the shortest and of the longest corridor, in cells."""
        length = self.corridor_length
        return (length, length) if isinstance(length, int) else length


class TMazeWithoutHintVector(Lanes[Config]):
    """Vectorised T-Mazes without a hint in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 3): y in {-1, 0, 1}; flag, 1 at the junction, else 0; noise, uniform in {-1, 0, 1}.

    Actions: 0 right, 1 up, 2 left, 3 down. A move into a wall does nothing.

    Rewards: float64 (num_envs,): 1 at the goal, else 0.

    An episode terminates on either side, and is truncated after length + 2 steps. The last info holds `is_success`,
    True if the episode ended at the goal.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        low, high = np.array([[-1, 1], [0, 1], [-1, 1]], np.float32).T
        super().__init__(num_envs, render_mode, spaces.Box(low, high, dtype=np.float32), spaces.Discrete(4))
        self._x, self._y, self._goal, self._length, self._time = np.zeros((5, num_envs), np.int64)

    def _start(self, lanes: Ints) -> None:
        self._goal[lanes] = np.where(self._streams.draw(lanes) & np.uint64(1), 1, -1)
        self._start_again(lanes)

    def _start_again(self, lanes: Ints) -> None:
        low, high = self.config.lengths
        draws = self._streams.draw(lanes) % np.uint64(high - low + 1)
        self._length[lanes] = low + draws.astype(np.int64)
        self._x[lanes], self._time[lanes] = 0, -1

    def _advance(self, actions: Ints) -> Transition:
        self._time += 1
        np.clip(self._x + _DX[actions], 0, self._length, out=self._x)
        at_end = self._x == self._length
        np.multiply(_DY[actions], at_end, out=self._y)
        terminated = self._y != 0
        truncated = (self._time >= self._length + 2) & ~terminated
        won = self._y == self._goal
        observations = np.empty((self.num_envs, 3), np.float32)
        observations[:, 0] = self._y
        observations[:, _FLAG] = at_end & ~terminated
        observations[:, 2] = self._streams.draw() % 3
        observations[:, 2] -= 1
        return Transition(observations, won.astype(np.float64), terminated, truncated, won)

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw the maze: the agent is black, the goal green and the other side orange. uint8 (80, width, 3)."""
        x, y, goal, length = (int(each[lane]) for each in (self._x, self._y, self._goal, self._length))
        cells = np.full((5, self.config.lengths[1] + 3, 3), _WALL, np.uint8)
        cells[2, 1 : length + 2] = _FLOOR
        cells[2 - goal, length + 1], cells[2 + goal, length + 1] = _GOAL, _OTHER
        image = cells.repeat(_CELL, 0).repeat(_CELL, 1)
        image[::_CELL] = image[:, ::_CELL] = _WALL
        top, side = (2 - y) * _CELL, (x + 1) * _CELL
        image[top + 4 : top + _CELL - 3, side + 4 : side + _CELL - 3] = _AGENT
        return image


class TMazeWithoutHint(Lane[Config]):
    """Single T-Maze without a hint: a `TMazeWithoutHintVector` of size 1, without batch axis and autoreset."""

    vector = TMazeWithoutHintVector


class Known(NamedTuple):
    """State of the expert in n environments.

    Attributes:
        goal: the goal's side (n,): 1 up, -1 down, 0 unknown.
        at_junction: bool (n,), True where the last observation was at the junction.
        last: the last actions (n,).
    """

    goal: Ints
    at_junction: Bools
    last: Ints


class Expert:
    """Policy that goes right, then up; and if no reward came there, down in all later episodes of the life.

    It acts on observations alone.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        pass

    def predict(
        self, observation: Any, state: Known | None = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Ints, Known]:
        """Choose an action for each of n environments.

        Args:
            observation: Observations of lives. Those of single episodes show no reward, so nothing is learnt.
            state: What is known; None means nothing.
            episode_start: (n,), True where a life starts. All is forgotten there.
            deterministic: Unused, since the expert is deterministic.
        """
        own, rewards, _ = seen_of(observation, episode_start)
        goal = np.zeros(len(own), np.int64)
        if state is not None:
            side = np.where(state.at_junction, _DY[state.last], 0)  # 0 unless an episode has ended there
            goal = np.where(side == 0, state.goal, np.where(rewards > 0, side, -side))
        if episode_start is not None:
            goal = np.where(episode_start, 0, goal)
        at_junction = own[:, _FLAG] == 1
        actions = np.where(at_junction, np.where(goal < 0, DOWN, UP), RIGHT)
        return actions, Known(goal, at_junction, actions)

    def replace_actions(self, state: Known, actions: Ints, replaced: Bools) -> Known:
        """Return the state after other actions than the chosen ones, see `Informed`."""
        return state._replace(last=np.where(replaced, actions, state.last))


def decisive(trajectory: Trajectory) -> Bools:
    """Return the mask, bool (T,), of the steps at the junction in all episodes of a life but the first."""
    observations = trajectory.observations
    if not isinstance(observations, dict):
        return np.zeros(len(trajectory), bool)
    starts = np.asarray(observations["episode_start"])[:-1]
    at_junction = np.asarray(observations["observation"])[:-1, _FLAG] == 1
    mask: Bools = at_junction & (starts.cumsum() > 1)
    return mask


make = TMazeWithoutHint
make_vec = TMazeWithoutHintVector
