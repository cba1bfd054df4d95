"""Dark Key-to-Door: 50 steps an episode, 8 episodes a life; find a hidden key, then a hidden door, and know both later.

The room is that of Algorithm Distillation (Laskin et al., 2022, arXiv:2210.14215): 9 x 9 cells, of which the agent
sees its own alone, and 50 steps. The first visit of the key is rewarded with 1, and the first visit of the door after
that with 1. Key and door stay during a life, and nothing but the rewards tells where they are.

Decided here: every episode starts in the middle and ends at the door. Whether the agent has the key isn't shown. With
`goals = "test"` both key and door are in cells that are held out.

The rules are written once, in `DarkKeyToDoorVector`. `DarkKeyToDoor` wraps one of size 1.
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

ID = "rmt_rl/DarkKeyToDoor-v0"
LIFETIME = 8
_KEY, _DOOR = (230, 159, 0), (0, 158, 115)
_UNKNOWN = -1


class Config(DarkConfig):
    """Options of Dark Key-to-Door. The defaults are the training task."""

    steps: int = Field(50, ge=1, le=10**6, description="steps of an episode, at least 2 (size - 1)")

    @model_validator(mode="after")
    def _reaches_all(self) -> Self:
        if self.steps < 2 * (self.size - 1):
            raise ValueError(f"steps={self.steps}: too few for a way across the room and back")
        return self


class DarkKeyToDoorVector(DarkGrid[Config]):
    """Vectorised rooms with a key and a door in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 2 size), 0 or 1: the column of the agent's cell, then its row, one-hot.

    Actions: 0 right, 1 up, 2 left, 3 down, 4 stay. A move into the edge does nothing.

    Rewards: float64 (num_envs,): 1 for an episode's first step onto the key, 1 for the step onto the door after it.

    An episode terminates at the door, and is truncated after `steps` steps. The last info holds `is_success`, True if
    the door was reached with the key.

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
        self._key, self._door = np.zeros((2, num_envs), np.int64)
        self._has_key = np.zeros(num_envs, bool)

    def _start(self, lanes: Ints) -> None:
        count = len(self._hiding)
        key, door = self._draw(lanes, count), self._draw(lanes, count - 1)
        door += door >= key  # any other cell
        self._key[lanes], self._door[lanes] = self._hiding[key], self._hiding[door]
        self._start_again(lanes)

    def _start_again(self, lanes: Ints) -> None:
        self._go_to_start(lanes)
        self._has_key[lanes] = False

    def _advance(self, actions: Ints) -> Transition:
        self._move(actions)
        opened = self._has_key & (self._cell == self._door)
        taken = ~self._has_key & (self._cell == self._key) & (actions != BEGIN)
        self._has_key |= taken
        truncated = (self._time >= self.config.steps) & ~opened
        rewards = (opened | taken).astype(np.float64)
        return Transition(self._observe(), rewards, opened, truncated, opened)

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw the room: the key is orange until it is taken, the door green, the start blue, the agent black."""
        things = {int(self._door[lane]): _DOOR}
        if not self._has_key[lane]:
            things[int(self._key[lane])] = _KEY
        return self._grid_picture(lane, things)


class DarkKeyToDoor(Lane[Config]):
    """Single Dark Key-to-Door: a `DarkKeyToDoorVector` of size 1, without batch axis and autoreset."""

    vector = DarkKeyToDoorVector


class Known(NamedTuple):
    """State of the expert in n environments; cells are -1 if they aren't known.

    Attributes:
        keys_left: bool (n, cells), True for cells where the key may be, in the order of `sweep`.
        doors_left: the same of the door.
        key: the key's cell (n,).
        door: the door's cell (n,).
        has_key: True where the key is taken in this episode (n,).
        own: own cells (n,).
        next_cell: cells (n,) that the chosen actions lead to.
    """

    keys_left: Bools
    doors_left: Bools
    key: Ints
    door: Ints
    has_key: Bools
    own: Ints
    next_cell: Ints


class Expert:
    """Policy that searches the key in the order of `sweep`, then the door, and goes straight to what it has found.

    It acts on observations alone. A cell that was passed without the key can still be the door's.

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
        known = self._initial(own)
        if state is not None:
            known = state if episode_start is None else _forgotten(state, known, episode_start)
        reached = np.where(seen.starts, known.next_cell, own)  # an episode's end shows the next one's start
        known = self._learnt(known, reached, seen.rewards > 0)
        has_key = known.has_key & ~seen.starts
        actions = towards(own, self._target(known, has_key), self._size)
        after = moved(own, actions, self._size)
        return actions, known._replace(has_key=has_key, own=own, next_cell=after)

    def replace_actions(self, state: Known, actions: Ints, replaced: Bools) -> Known:
        """Return the state after other actions than the chosen ones, see `Informed`."""
        done = moved(state.own, np.asarray(actions), self._size)
        return state._replace(next_cell=np.where(replaced, done, state.next_cell))

    def _learnt(self, known: Known, reached: Ints, rewarded: Bools) -> Known:
        """Return what is known after the agents reached these cells."""
        is_here = self._order == reached[:, None]
        takes = rewarded & ~known.has_key
        opens = rewarded & known.has_key
        has_key = known.has_key | takes
        return known._replace(
            keys_left=known.keys_left & ~(is_here & ~known.has_key[:, None]),
            doors_left=known.doors_left & ~(is_here & has_key[:, None]),
            key=np.where(takes, reached, known.key),
            door=np.where(opens, reached, known.door),
            has_key=has_key,
        )

    def _target(self, known: Known, has_key: Bools) -> Ints:
        """Return the cells to go to."""
        next_key, next_door = (self._order[left.argmax(1)] for left in (known.keys_left, known.doors_left))
        key = np.where(known.key == _UNKNOWN, next_key, known.key)
        door = np.where(known.door == _UNKNOWN, next_door, known.door)
        return np.where(has_key, door, key)

    def _initial(self, cells: Ints) -> Known:
        everywhere = np.ones((len(cells), len(self._order)), bool)
        unknown = np.full(len(cells), _UNKNOWN)
        return Known(everywhere, everywhere, unknown, unknown, np.zeros(len(cells), bool), cells, unknown)


def _forgotten(known: Known, initial: Known, starts: Any) -> Known:
    """Return what is known, and the initial state where a life starts."""
    begins = np.asarray(starts, bool)

    def chosen(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        return np.where(begins.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return Known(*map(chosen, known, initial))


def decisive(trajectory: Trajectory) -> Bools:
    """Return the mask, bool (T,), of the steps after the first episode of the life in which a reward came."""
    return found_before(trajectory)


make = DarkKeyToDoor
make_vec = DarkKeyToDoorVector
