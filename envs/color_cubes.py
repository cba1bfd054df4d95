"""Color-Cubes: at most 40 steps; find cubes by colour in a grid, whose positions show only when something has changed.

The task follows "Memory Retention Is Not Enough to Master Memory Tasks in Reinforcement Learning" (2026,
arXiv:2601.15086). From the paper are the G x G grid (`size`) with N cubes of different colours (`cubes`), the K phases
(`phases`), each with a target colour, the rewards, teleports of the found target and, with a probability at each step,
of other cubes, and the three difficulties:

    trivial    N = K = 1: keep the position of the only cube
    medium     several cubes; every update shows positions with colours
    extreme    only an episode's first update shows colours, the others show positions without colours

An update is shown in a phase's first observation and after each teleport. All other observations show no cube. Decided
here, since the paper's numbers weren't at hand:

- The defaults, 5 x 5 cells, 3 cubes, 5 phases, a teleport with probability 0.1 at each step, and a limit of one longest
  way a phase.
- A phase's first observation shows the target's colour, and no other does.
- A cube is found by walking onto it. Cubes that aren't the target don't stand in the way.
- At most one cube teleports in a step, to a free cell without the agent. So the cube without a colour that appears in a
  new cell is the one that is missing in its old cell: what is where can always be inferred.

The rules are written once, in `ColorCubesVector`. `ColorCubes` wraps one of size 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from colorsys import hsv_to_rgb
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._lanes import Lane, Lanes, Transition

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/ColorCubes-v0"

RIGHT, UP, LEFT, DOWN = range(4)
_BEGIN = 4  # the extra action of `Lanes` that begins an episode
_DX = np.array([1, 0, -1, 0, 0])
_DY = np.array([0, -1, 0, 1, 0])  # rows count from the top

_UPDATE, _COLOURS, _PHASE = range(3)  # columns of the observation
_FLAGS = 3  # number of these columns
_UNKNOWN = -1

_CELL = 16  # of a picture: pixels per cell
_WALL, _FLOOR, _AGENT = (40, 44, 52), (235, 235, 230), (20, 20, 20)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Config(Frozen):
    """Options of Color-Cubes. The defaults are a training task of at most 40 steps."""

    difficulty: Literal["trivial", "medium", "extreme"] = Field(
        "medium",
        description="trivial: one cube, one phase; medium: updates show positions and colours; extreme: updates after "
        "the episode's first show positions only",
    )
    size: int = Field(5, ge=2, le=64, description="cells per side of the grid, 2 to 64")
    cubes: int | None = Field(
        None, ge=1, description="cubes, each of its own colour, at most size^2 - 2 (none: 3, trivial: 1)"
    )
    phases: int | None = Field(None, ge=1, le=10**9, description="targets to find (none: 5, trivial: 1)")
    teleport: float = Field(
        0.1, ge=0, le=1, description="probability at each step that a cube which isn't the target teleports"
    )
    max_steps: int | None = Field(
        None, ge=1, description="steps after which an episode is truncated, >= 1; none: 2 (size - 1) a phase"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.difficulty == "trivial" and (self.cube_count, self.phase_count) != (1, 1):
            raise ValueError("difficulty=trivial has one cube and one phase; leave cubes and phases out")
        most = self.size**2 - 2
        if self.cube_count > most:
            raise ValueError(f"cubes={self.cube_count}: a grid of size={self.size} has room for {most}")
        return self

    @property
    def cube_count(self) -> int:
        """Number of cubes, N."""
        default = 1 if self.difficulty == "trivial" else 3
        return default if self.cubes is None else self.cubes

    @property
    def phase_count(self) -> int:
        """Number of targets to find, K."""
        default = 1 if self.difficulty == "trivial" else 5
        return default if self.phases is None else self.phases

    @property
    def limit(self) -> int:
        """Most steps of an episode. The default suffices for the longest way in every phase."""
        return 2 * (self.size - 1) * self.phase_count if self.max_steps is None else self.max_steps


class Layout(NamedTuple):
    """Slices of an observation of C cells and N cubes."""

    own: slice
    positions: slice
    colours: slice
    target: slice

    @classmethod
    def of(cls, config: Config) -> Layout:
        """Return the layout of observations with these options."""
        cells = config.size**2
        widths = np.array([_FLAGS, cells, cells, cells * config.cube_count, config.cube_count])
        stops = widths.cumsum().tolist()
        own, positions, colours, target = map(slice, stops[:-1], stops[1:])
        return cls(own, positions, colours, target)


class ColorCubesVector(Lanes[Config]):
    """Vectorised Color-Cubes in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 3 + (2 + N) C + N), all 0 or 1, for N cubes in C = size^2 cells. In this order:

    - flags: an update is shown; it shows colours; a phase begins.
    - the agent's cell, one of C.
    - in updates the cells of all cubes, C.
    - in updates with colours the cell of each cube, N times C, one after the other.
    - in a phase's first observation the target's colour, one of N.

    Cells count along rows from the top left. Everything that isn't shown is 0.

    Actions: 0 right, 1 up, 2 left, 3 down. A move into the grid's edge does nothing.

    Rewards: float64 (num_envs,): 1 for a step onto the target, else 0.

    An episode terminates when all phases' targets are found. It is truncated after `Config.limit` steps. The last info
    holds `is_success`, True if all targets were found.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = config = validated(Config, options)
        self._layout = Layout.of(config)
        space = spaces.Box(0, 1, (self._layout.target.stop,), np.float32)
        super().__init__(num_envs, render_mode, space, spaces.Discrete(4))
        self._lanes = np.arange(num_envs)
        self._x, self._y, self._target, self._left, self._time = np.zeros((5, num_envs), np.int64)
        self.cells = np.full((num_envs, config.cube_count), _UNKNOWN)
        """The cell of each cube, int64 (num_envs, N)."""
        self._occupied = np.zeros((num_envs, config.size**2), bool)

    def _start(self, lanes: Ints) -> None:
        self._left[lanes] = self.config.phase_count
        self._time[lanes] = -1
        self._occupied[lanes] = False
        size = self.config.size
        cell = self._draw(lanes, size**2)
        self._x[lanes], self._y[lanes] = cell % size, cell // size
        for cube in range(self.config.cube_count):
            self._put(lanes, np.full(len(lanes), cube))
        self._target[lanes] = self._draw(lanes, self.config.cube_count)

    def _draw(self, lanes: Ints, below: int | Ints) -> Ints:
        """Draw a number in 0..below - 1 for each of these lanes."""
        drawn: Ints = (self._streams.draw(lanes) >> np.uint64(1)).astype(np.int64) % below
        return drawn

    def _put(self, lanes: Ints, cubes: Ints) -> None:
        """Put one cube of each of these lanes in a cell with neither a cube nor the agent."""
        free = ~self._occupied[lanes]
        free[np.arange(len(lanes)), self._own_cell[lanes]] = False
        rank = self._draw(lanes, free.sum(1))
        chosen = (free.cumsum(1) > rank[:, None]).argmax(1)
        self.cells[lanes, cubes] = chosen
        self._occupied[lanes, chosen] = True

    def _teleport(self, lanes: Ints, cubes: Ints) -> None:
        """Move one cube of each of these lanes to another cell."""
        before = self.cells[lanes, cubes]
        self._put(lanes, cubes)
        self._occupied[lanes, before] = False

    @property
    def _own_cell(self) -> Ints:
        return self._y * self.config.size + self._x

    def _advance(self, actions: Ints) -> Transition:
        edge = self.config.size - 1
        self._time += 1
        np.clip(self._x + _DX[actions], 0, edge, out=self._x)
        np.clip(self._y + _DY[actions], 0, edge, out=self._y)
        begins = actions == _BEGIN
        found = self.cells[self._lanes, self._target] == self._own_cell
        self._left -= found
        won = found & (self._left == 0)
        next_phase = found & ~won
        finders = np.flatnonzero(next_phase)
        self._teleport(finders, self._target[finders])
        self._target[finders] = self._draw(finders, self.config.cube_count)
        moved = self._teleport_others(~begins & ~found)
        truncated = (self._time >= self.config.limit) & ~won
        observations = self._observe(begins, begins | next_phase, moved)
        return Transition(observations, found.astype(np.float64), won, truncated, won)

    def _teleport_others(self, may: Bools) -> Bools:
        """Teleport a cube that isn't the target in some lanes of `may`; return which, bool (N,)."""
        others = self.config.cube_count - 1
        if not others:
            return np.zeros(self.num_envs, bool)
        chance = self._streams.draw() >> np.uint64(11)
        moved: Bools = may & (chance < self.config.teleport * 2.0**53)
        lanes = np.flatnonzero(moved)
        drawn = self._draw(lanes, others)
        self._teleport(lanes, drawn + (drawn >= self._target[lanes]))
        return moved

    def _observe(self, begins: Bools, phase: Bools, moved: Bools) -> NDArray[np.float32]:
        update = phase | moved
        coloured = begins if self.config.difficulty == "extreme" else update
        layout = self._layout
        observations = np.zeros(self.observation_space.shape or (), np.float32)
        observations[:, _UPDATE], observations[:, _COLOURS], observations[:, _PHASE] = update, coloured, phase
        observations[self._lanes, layout.own.start + self._own_cell] = 1
        observations[:, layout.positions] = self._occupied & update[:, None]
        lanes = np.flatnonzero(coloured)
        maps = layout.colours.start + self.config.size**2 * np.arange(self.config.cube_count)
        observations[lanes[:, None], maps + self.cells[lanes]] = 1
        lanes = np.flatnonzero(phase)
        observations[lanes, layout.target.start + self._target[lanes]] = 1
        return observations

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw the grid with all cubes, also those that observations hide: uint8 (height, width, 3).

        The agent is a small black square. The bar below has the target's colour; it gets shorter with each phase.
        """
        size, count = self.config.size, self.config.cube_count
        colours = [np.array(hsv_to_rgb(cube / count, 0.75, 0.9)) * 255 for cube in range(count)]
        cells = np.full((size + 2, size, 3), _WALL, np.uint8)
        cells[:size] = _FLOOR
        for cube, cell in enumerate(self.cells[lane]):
            cells[cell // size, cell % size] = colours[cube]
        image = cells.repeat(_CELL, 0).repeat(_CELL, 1)
        image[::_CELL] = image[:, ::_CELL] = _WALL
        top, side = self._y[lane] * _CELL, self._x[lane] * _CELL
        image[top + 5 : top + _CELL - 4, side + 5 : side + _CELL - 4] = _AGENT
        length = size * _CELL * self._left[lane] // self.config.phase_count
        image[(size + 1) * _CELL + 4 : -4, :length] = colours[self._target[lane]]
        return image


class ColorCubes(Lane[Config]):
    """Single Color-Cubes task: a `ColorCubesVector` of size 1, without batch axis and autoreset."""

    vector = ColorCubesVector


class Expert:
    """Policy that keeps in mind where each cube is, and takes a shortest way to the target, first along its row.

    The expert knows only what observations showed. If an update shows no colours, the cube that is missing in its cell
    is the one in the new cell.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._layout = Layout.of(config)
        self._size, self._cubes = config.size, config.cube_count

    def predict(
        self,
        observation: NDArray[np.float32] | Mapping[str, NDArray[np.float32]],
        state: Ints | None = None,
        episode_start: Bools | None = None,
        deterministic: bool = True,
    ) -> tuple[Ints, Ints]:
        """Choose an action for each of n environments.

        Args:
            observation: (n, width of an observation), or a Dict with this array under "observation".
            state: The known cell of each cube, then the target's number, int64 (n, N + 1); -1 where unknown. None means
                all unknown.
            episode_start: (n,), True where the observation is an episode's first. All is forgotten there.
            deterministic: Unused, since the expert is deterministic.

        Returns:
            Actions (n,) and the next state. The action is right if the target's cell is unknown.
        """
        seen = observation["observation"] if isinstance(observation, Mapping) else observation
        known = np.full((len(seen), self._cubes + 1), _UNKNOWN) if state is None else state
        if episode_start is not None:
            known = np.where(episode_start[:, None], _UNKNOWN, known)
        cells, target = self._updated(seen, known[:, :-1], known[:, -1])
        goal = np.where(target == _UNKNOWN, _UNKNOWN, cells[np.arange(len(seen)), target])
        own = seen[:, self._layout.own].argmax(1)
        right, down = goal % self._size - own % self._size, goal // self._size - own // self._size
        along_row = np.where(right > 0, RIGHT, LEFT)
        actions = np.where(right != 0, along_row, np.where(down > 0, DOWN, UP))
        return np.where(goal == _UNKNOWN, RIGHT, actions), np.column_stack([cells, target])

    def _updated(self, seen: NDArray[np.float32], cells: Ints, target: Ints) -> tuple[Ints, Ints]:
        """Return the cells of cubes (n, N) and the targets (n,) that are known after these observations."""
        layout = self._layout
        occupied = seen[:, layout.positions] == 1
        is_update, is_coloured, is_phase = (seen[:, flag] == 1 for flag in (_UPDATE, _COLOURS, _PHASE))

        known_free = np.ones_like(occupied)
        lane, cube = np.nonzero(cells != _UNKNOWN)
        known_free[lane, cells[lane, cube]] = False
        appeared = occupied & known_free
        remains = np.take_along_axis(occupied, np.maximum(cells, 0), 1)
        missing = (cells != _UNKNOWN) & ~remains & is_update[:, None]
        inferred = np.where(missing, appeared.argmax(1)[:, None], cells)

        maps = seen[:, layout.colours].reshape(len(seen), self._cubes, -1)
        shown = maps.argmax(2)
        return (
            np.where(is_coloured[:, None], shown, inferred),
            np.where(is_phase, seen[:, layout.target].argmax(1), target),
        )


def _flags(trajectory: Trajectory) -> Bools:
    """Return the flags of a trajectory's observations but the last, (3, T): update, colours, phase."""
    observations = trajectory.observations
    array = observations["observation"] if isinstance(observations, dict) else observations
    flags: Bools = np.asarray(array)[:-1, :_FLAGS].T == 1
    return flags


def decisive(trajectory: Trajectory) -> Bools:
    """Return the mask, bool (T,), of the steps that don't show both the target's colour and which cube has it."""
    _, colours, phase = _flags(trajectory)
    hidden: Bools = ~(colours & phase)
    return hidden


def idle(trajectory: Trajectory) -> Bools:
    """Return the mask, bool (T,), of the steps that show no cube and no target."""
    quiet: Bools = ~_flags(trajectory)[_UPDATE]
    return quiet


make = ColorCubes
make_vec = ColorCubesVector
