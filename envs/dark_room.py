"""Dark Room: 20 steps an episode, 10 episodes a life; find a hidden goal once, and know its place in later episodes.

The room is that of Algorithm Distillation (Laskin et al., 2022, arXiv:2210.14215): 9 x 9 cells, of which the agent
sees its own alone, a goal that is hidden, 20 steps, 5 actions. The goal stays during a life, and nothing but the reward
tells where. So one must search, remember over episodes where the reward was, and go there at once.

Decided here: every episode starts in the middle. Each step that ends at the goal is rewarded, so an agent that stays
there gets more the earlier it comes. The cells of `goals = "test"` are held out.

The rules are written once, in `DarkRoomVector`. `DarkRoom` wraps one of size 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rmt_rl.config import validated
from rmt_rl.envs._dark import BEGIN, Bools, DarkConfig, DarkGrid, Ints, cells_of, found_before, moved, sweep, towards
from rmt_rl.envs._lanes import Lane, Transition
from rmt_rl.envs._lives import seen_of

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/DarkRoom-v0"
LIFETIME = 10
_GOAL = (0, 158, 115)
_UNKNOWN = -1


class Config(DarkConfig):
    """Options of the Dark Room. The defaults are the training task."""

    steps: int = Field(20, ge=1, le=10**6, description="steps of an episode, at least size - 1: the way to a corner")

    @model_validator(mode="after")
    def _reaches_all(self) -> Self:
        if self.steps < self.size - 1:
            raise ValueError(f"steps={self.steps}: the corners of {self.size} x {self.size} cells are out of reach")
        return self


class DarkRoomVector(DarkGrid[Config]):
    """Vectorised Dark Rooms in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 2 size), 0 or 1: the column of the agent's cell, then its row, one-hot.

    Actions: 0 right, 1 up, 2 left, 3 down, 4 stay. A move into the edge does nothing.

    Rewards: float64 (num_envs,): 1 for a step that ends at the goal, else 0.

    An episode is truncated after `steps` steps. The last info holds `is_success`, True if the goal was reached.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        super().__init__(num_envs, render_mode, self.config)
        self._goal = np.zeros(num_envs, np.int64)
        self._reached = np.zeros(num_envs, bool)

    def _start(self, lanes: Ints) -> None:
        self._goal[lanes] = self._hiding[self._draw(lanes, len(self._hiding))]
        self._start_again(lanes)

    def _start_again(self, lanes: Ints) -> None:
        self._go_to_start(lanes)
        self._reached[lanes] = False

    def _advance(self, actions: Ints) -> Transition:
        self._move(actions)
        at_goal = (self._cell == self._goal) & (actions != BEGIN)
        self._reached |= at_goal
        never = np.zeros(self.num_envs, bool)
        truncated = self._time >= self.config.steps
        return Transition(self._observe(), at_goal.astype(np.float64), never, truncated, self._reached.copy())

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw the room: the goal is green, the start blue, the agent a black square."""
        return self._grid_picture(lane, {int(self._goal[lane]): _GOAL})


class DarkRoom(Lane[Config]):
    """Single Dark Room: a `DarkRoomVector` of size 1, without batch axis and autoreset."""

    vector = DarkRoomVector


class Known(NamedTuple):
    """State of the expert in n environments.

    Attributes:
        left: bool (n, cells), True for cells still to be searched, in the order of `sweep`.
        goal: the goal's cell (n,), -1 if it isn't known.
        own: own cells (n,).
        next_cell: cells (n,) that the chosen actions lead to.
    """

    left: Bools
    goal: Ints
    own: Ints
    next_cell: Ints


class Expert:
    """Policy that searches the room, cell by cell in the order of `sweep`, until a reward comes, and then goes there.

    It acts on observations alone. In a room of 9 x 9 cells four episodes suffice to search all.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._size = config.size
        self._order = sweep(config.size)

    def predict(
        self, observation: Any, state: Known | None = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Ints, Known]:
        """Choose an action for each of n environments.

        Args:
            observation: Observations of lives. Those of single episodes show no reward, so the search never ends.
            state: What is known; None means nothing.
            episode_start: (n,), True where a life starts. All is forgotten there.
            deterministic: Unused, since the expert is deterministic.
        """
        seen = seen_of(observation, episode_start)
        own = cells_of(seen.own, self._size)
        known = self._initial(own) if state is None else _forgotten(state, episode_start)
        reached = np.where(seen.starts, known.next_cell, own)  # an episode's end shows the next one's start
        left = known.left & (self._order != reached[:, None])
        goal = np.where((seen.rewards > 0) & (known.goal == _UNKNOWN), reached, known.goal)
        target = np.where(goal == _UNKNOWN, self._order[left.argmax(1)], goal)
        actions = towards(own, target, self._size)
        return actions, Known(left, goal, own, moved(own, actions, self._size))

    def replace_actions(self, state: Known, actions: Ints, replaced: Bools) -> Known:
        """Return the state after other actions than the chosen ones, see `Informed`."""
        done = moved(state.own, np.asarray(actions), self._size)
        return state._replace(next_cell=np.where(replaced, done, state.next_cell))

    def _initial(self, cells: Ints) -> Known:
        count = len(cells)
        unknown = np.full(count, _UNKNOWN)
        return Known(np.ones((count, len(self._order)), bool), unknown, cells, unknown)


def _forgotten(known: Known, starts: Any) -> Known:
    """Return what is known, without anything where a life starts."""
    if starts is None:
        return known
    left = known.left | np.asarray(starts, bool)[:, None]
    goal, next_cell = (np.where(starts, _UNKNOWN, each) for each in (known.goal, known.next_cell))
    return Known(left, goal, known.own, next_cell)


def decisive(trajectory: Trajectory) -> Bools:
    """Return the mask, bool (T,), of the steps away from a goal that an earlier episode of the life has found."""
    rewards = np.asarray(trajectory.rewards)
    stays = np.zeros(len(rewards), bool)
    stays[1:] = rewards[:-1] > 0
    if isinstance(trajectory.observations, dict):
        stays &= np.asarray(trajectory.observations["episode_start"])[:-1] == 0
    return found_before(trajectory) & ~stays


make = DarkRoom
make_vec = DarkRoomVector
