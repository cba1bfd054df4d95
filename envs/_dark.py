"""Dark grids: an agent sees its own cell alone, and what is worth finding is hidden. Shared by the tasks `dark_*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field, field_validator

from rmt_rl.config import Frozen
from rmt_rl.envs._lanes import Lanes

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

RIGHT, UP, LEFT, DOWN, STAY = range(5)
_DX = np.array([1, 0, -1, 0, 0, 0])  # the last entry: the extra action of `Lanes` that begins an episode
_DY = np.array([0, -1, 0, 1, 0, 0])
BEGIN = 5

_CELL = 16  # pixels of a picture
_WALL, _FLOOR, _START, _AGENT = (40, 44, 52), (235, 235, 230), (86, 180, 233), (20, 20, 20)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Goals = Literal["train", "test", "all"]


class DarkConfig(Frozen):
    """Options of all dark grids."""

    size: int = Field(9, ge=3, le=63, description="cells per side of the grid, an odd number from 3 to 63")
    goals: Goals = Field(
        "train",
        description="cells where hidden things may be: train, test (held out: every fifth cell, where column + 2 row "
        "is divisible by 5), or all",
    )

    @field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("the grid needs a middle cell")
        return size

    @property
    def middle(self) -> int:
        """The cell in the middle. Cells count along rows from the top left."""
        return self.size**2 // 2

    @property
    def hiding_cells(self) -> Ints:
        """The cells where hidden things may be; never the middle."""
        cells = np.arange(self.size**2)
        held_out = (cells % self.size + 2 * (cells // self.size)) % 5 == 0
        wanted = {"train": ~held_out, "test": held_out, "all": np.ones_like(held_out)}[self.goals]
        return np.flatnonzero(wanted & (cells != self.middle))


DarkConfigT = TypeVar("DarkConfigT", bound=DarkConfig)


class DarkGrid(Lanes[DarkConfigT]):
    """Base of dark grids: the agent's place, its moves and its observation.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        config: Options.
    """

    def __init__(self, num_envs: int, render_mode: str | None, config: DarkConfig) -> None:
        self._size = config.size
        space = spaces.Box(0, 1, (2 * config.size,), np.float32)
        super().__init__(num_envs, render_mode, space, spaces.Discrete(5))
        self._middle = config.middle
        self._hiding = config.hiding_cells
        self._cell = np.full(num_envs, config.middle)
        self._time = np.zeros(num_envs, np.int64)

    def _go_to_start(self, lanes: Ints) -> None:
        self._cell[lanes] = self._middle
        self._time[lanes] = -1  # the step that begins an episode takes no time

    def _draw(self, lanes: Ints, below: int) -> Ints:
        """Draw a number in 0..below - 1 for each of these lanes."""
        drawn: Ints = (self._streams.draw(lanes) >> np.uint64(1)).astype(np.int64) % below
        return drawn

    def _move(self, actions: Ints) -> None:
        self._time += 1
        self._cell[:] = moved(self._cell, actions, self._size)

    def _observe(self) -> NDArray[np.float32]:
        rows = np.arange(self.num_envs)
        observations = np.zeros((self.num_envs, 2 * self._size), np.float32)
        observations[rows, self._cell % self._size] = 1
        observations[rows, self._size + self._cell // self._size] = 1
        return observations

    def _grid_picture(self, lane: int, things: Mapping[int, tuple[int, int, int]]) -> NDArray[np.uint8]:
        """Draw the grid with its hidden things, the colour of each by cell: uint8 (height, width, 3)."""
        size = self._size
        cells = np.full((size, size, 3), _FLOOR, np.uint8)
        cells.reshape(-1, 3)[self._middle] = _START
        for cell, colour in things.items():
            cells.reshape(-1, 3)[cell] = colour
        image = cells.repeat(_CELL, 0).repeat(_CELL, 1)
        image[::_CELL] = image[:, ::_CELL] = _WALL
        top, side = int(self._cell[lane]) // size * _CELL, int(self._cell[lane]) % size * _CELL
        image[top + 5 : top + _CELL - 4, side + 5 : side + _CELL - 4] = _AGENT
        return image


def moved(cells: Ints, actions: Ints, size: int) -> Ints:
    """Return the cells (n,) after these actions. A move into the edge does nothing."""
    x = np.clip(cells % size + _DX[actions], 0, size - 1)
    y = np.clip(cells // size + _DY[actions], 0, size - 1)
    after: Ints = y * size + x
    return after


def towards(cells: Ints, targets: Ints, size: int) -> Ints:
    """Return the actions (n,) that lead from cells to targets, first along the row; `STAY` at the target."""
    right, down = targets % size - cells % size, targets // size - cells // size
    along_row = np.where(right > 0, RIGHT, LEFT)
    along_column = np.where(down > 0, DOWN, UP)
    return np.where(right != 0, along_row, np.where(down != 0, along_column, STAY))


def sweep(size: int) -> Ints:
    """Return all cells but the middle in the order of a search from there.

    The grid is four blocks around the middle, like the sails of a windmill. Each is walked line by line, from the cell
    next to the middle. So a quarter of the cells is searched in as many steps, and the next quarter starts anew.
    """
    half = size // 2
    block = []
    for line in range(half):
        along = range(half + 1) if line % 2 == 0 else range(half, -1, -1)
        block += [(-step, -1 - line) for step in along]
    order = []
    for _ in range(4):
        order += [(half + y) * size + half + x for x, y in block]
        block = [(-y, x) for x, y in block]
    return np.array(order)


def cells_of(observations: NDArray[Any], size: int) -> Ints:
    """Return the cells (n,) that observations (n, 2 size) show."""
    columns, rows = observations[:, :size].argmax(1), observations[:, size:].argmax(1)
    cells: Ints = rows * size + columns
    return cells


def found_before(trajectory: Trajectory) -> Bools:
    """Return the mask, bool (T,), of the steps in episodes of a life that follow one with a reward."""
    observations = trajectory.observations
    if not isinstance(observations, dict):
        return np.zeros(len(trajectory), bool)
    starts = np.asarray(observations["episode_start"])[:-1] == 1
    rewarded = np.asarray(observations["previous_reward"])[:-1, 0] > 0
    found = np.logical_or.accumulate(rewarded)
    mask: Bools = np.logical_or.accumulate(found & starts)
    return mask
