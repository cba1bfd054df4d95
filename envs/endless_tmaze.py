"""Endless T-Maze: 2-55 steps of the expert; 1-5 corridors of 1-10 cells, each with a cue that makes the last one void.

The task follows "Memory Retention Is Not Enough to Master Memory Tasks in Reinforcement Learning" (2026,
arXiv:2601.15086). An agent must not only keep a cue to the end of a corridor but replace it at the start of the next:

    s--------j     s: the corridor's first cell, where the cue is shown     A right turn at j leads to the next s,
    0      length  j: the junction, where the agent turns left or right     a wrong turn ends the episode.

From the paper are the corridors and cues, the three actions, lengths that are fixed or uniform, the rewards, and the
sixteen configurations: `corridors` 1, 3, 5 or 10, `corridor_length` 5, 10, (1, 5) or (1, 10). Decided here:

- A flag shows the junction. The paper shows the position, divided by the longest length. In uniform corridors that
  doesn't tell where the junction is. `ambiguous_position=False` shows the position, divided by the length of the
  corridor itself.
- A cue is shown once, not as long as the agent stays in the first cell.
- A delay is a step without advance: a turn inside the corridor, or forward at the junction.
- An agent may spend twice the steps that a corridor needs. After that the episode is truncated.

The return grows with the corridors. To test an agent conditioned on returns with more corridors than in training, lower
`goal_reward` so that the returns stay in the range of its data.

Runes are in the manner of "Rune T-Maze" (ALER, 2026, arXiv:2610.00592): observations that invert, cancel, reset or
repeat updates of a hidden cue. Of that paper only the abstract was at hand, so meaning and compositions are defined
here. The hidden cue says how to turn, and survives turns. Every corridor but the first shows, with equal chance, a new
cue or one of the episode's runes:

    rune      effect on the hidden cue
    invert    left becomes right, and right left
    cancel    the value before the last cue or rune returns (at first: nothing happens)
    reset     the value of the episode's first cue returns
    repeat    what the last cue or other rune did is done once more

Any set of runes works. Five compositions, with the fewest memory states in which a finite automaton solves them (states
before the first cue not counted; without runes 2):

    runes     invert   invert, cancel   invert, repeat   cancel, reset   all four
    states    2        4                4                8               12

The rules are written once, in `EndlessTMazeVector`. `EndlessTMaze` wraps one of size 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._lanes import Lane, Lanes, Ordered, Transition

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/EndlessTMaze-v0"
HINDSIGHT_CLASSES = 2
"""Number of turns: 0 is left, 1 right."""

FORWARD, LEFT, RIGHT = range(3)
"""Actions. `Lanes` has an extra action, 3, that begins an episode."""

NOTHING, CUE_LEFT, CUE_RIGHT, INVERT, CANCEL, RESET, REPEAT = range(7)
"""Signs that a corridor's first cell can show, or nothing."""
_SIGNS = {"invert": INVERT, "cancel": CANCEL, "reset": RESET, "repeat": REPEAT}
_CUE, _FLAG, _NOISE = range(3)  # columns of the observation; those of the runes follow, then the position

_CELL, _VIEW = 16, 41  # of a picture: pixels per cell, most columns shown
_WALL, _FLOOR, _FADED = (40, 44, 52), (235, 235, 230), (130, 132, 134)
_START, _WAY, _OTHER, _AGENT = (86, 180, 233), (0, 158, 115), (213, 94, 0), (20, 20, 20)

Ints = NDArray[np.int64]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountRange = Annotated[tuple[Count, Count], Ordered]
Rune = Literal["invert", "cancel", "reset", "repeat"]


def _distinct(runes: tuple[Rune, ...]) -> tuple[Rune, ...]:
    if len(set(runes)) < len(runes):
        raise ValueError("name each rune once")
    return runes


class Config(Frozen):
    """Options of the Endless T-Maze. The defaults are a training task of at most five corridors of ten cells."""

    corridors: Count | CountRange = Field(
        (1, 5), description="corridors of an episode: a number >= 1, or an inclusive range [low, high] to draw from"
    )
    corridor_length: Count | CountRange = Field(
        (1, 10),
        description="cells from a corridor's start to its junction: a number >= 1, or an inclusive range [low, high], "
        "drawn for each corridor",
    )
    runes: Annotated[tuple[Rune, ...], AfterValidator(_distinct)] = Field(
        (), description="runes that half of the corridors show in a cue's place: invert, cancel, reset, repeat"
    )
    ambiguous_position: bool = Field(True, description="omit the position along the corridor from the observation")
    goal_reward: float = Field(1.0, gt=0, allow_inf_nan=False, description="reward for a right turn, > 0")
    wrong_penalty: float = Field(-1.0, le=0, allow_inf_nan=False, description="reward (<= 0) for a wrong turn")
    delay_penalty: float = Field(
        -0.01, le=0, allow_inf_nan=False, description="reward (<= 0) for each step without advance"
    )

    @property
    def counts(self) -> tuple[int, int]:
        """Fewest and most corridors of an episode."""
        return _bounds(self.corridors)

    @property
    def lengths(self) -> tuple[int, int]:
        """Length of the shortest and of the longest corridor, in cells."""
        return _bounds(self.corridor_length)


def _bounds(given: int | tuple[int, int]) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else given


def updated(history: Ints, signs: Ints) -> Ints:
    """Return the histories of n environments after they showed these signs; `NOTHING` changes nothing.

    Args:
        history: int64 (n, 4): the hidden cue, its value before the last sign, the episode's first cue, and the last
            sign but `REPEAT`. Values are -1 left, 1 right; all are 0 before the first cue.
        signs: int64 (n,).
    """
    hidden, before, first, last = history.T
    meant = np.where(signs == REPEAT, last, signs)
    cues = np.where(meant == CUE_LEFT, -1, 1)
    values = np.select([meant == INVERT, meant == CANCEL, meant == RESET], [-hidden, before, first], cues)
    is_first = first == 0
    after = np.stack([values, np.where(is_first, values, hidden), np.where(is_first, values, first), meant], 1)
    return np.where(signs[:, None] == NOTHING, history, after)


class EndlessTMazeVector(Lanes[Config]):
    """Vectorised Endless T-Mazes in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 3): cue, -1 left or 1 right in a corridor's first observation, else 0; flag, 1 at
    the junction, else 0; noise, uniform in {-1, 0, 1}. With `runes` there are four more: 1 where a corridor's first
    observation shows invert, cancel, reset or repeat in the cue's place, else 0. With `ambiguous_position=False` the
    last is the position divided by the corridor's length.

    Actions: 0 forward, 1 turn left, 2 turn right. Forward at the junction, and turns before it, do nothing.

    Rewards: float64 (num_envs,): `goal_reward` for the right turn at a junction, `wrong_penalty` for the wrong one,
    `delay_penalty` for a step without advance.

    An episode terminates with a wrong turn or with the right turn at the last junction. It is truncated after
    2 (length + 1) steps in one corridor. The last info holds `is_success`, True if every turn was right.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = config = validated(Config, options)
        runes = [[0, 1]] * len(_SIGNS) if config.runes else []
        position = [] if config.ambiguous_position else [[0, 1]]
        low, high = np.array([[-1, 1], [0, 1], [-1, 1], *runes, *position], np.float32).T
        super().__init__(num_envs, render_mode, spaces.Box(low, high, dtype=np.float32), spaces.Discrete(3))
        self._runes = np.array([_SIGNS[rune] for rune in config.runes], np.int64)
        self._left, self._x, self._length, self._time, self._sign = np.zeros((5, num_envs), np.int64)
        self._history = np.zeros((num_envs, 4), np.int64)  # see `updated`

    def _start(self, lanes: Ints) -> None:
        low, high = self.config.counts
        draws = self._streams.draw(lanes)
        self._left[lanes] = low + (draws % np.uint64(high - low + 1)).astype(np.int64)
        self._history[lanes] = 0
        self._enter(lanes)
        self._time[lanes] = -1  # the step that begins an episode takes no time

    def _enter(self, lanes: Ints) -> None:
        """Put these lanes at the start of a new corridor, with `_sign` to be shown."""
        low, high = self.config.lengths
        draws = self._streams.draw(lanes)
        self._length[lanes] = low + (draws % np.uint64(high - low + 1)).astype(np.int64)
        self._x[lanes] = self._time[lanes] = 0
        bits = self._streams.draw(lanes).astype(np.int64) & (2**62 - 1)
        signs = np.where(bits & 1, CUE_RIGHT, CUE_LEFT)
        if len(self._runes):
            runes = self._runes[(bits >> 2) % len(self._runes)]
            is_first = self._history[lanes, 0] == 0
            signs = np.where((bits & 2 != 0) & ~is_first, runes, signs)
        self._sign[lanes] = signs
        self._history[lanes] = updated(self._history[lanes], signs)

    def _advance(self, actions: Ints) -> Transition:
        config = self.config
        self._time += 1
        at_junction = self._x == self._length
        walks = (actions == FORWARD) & ~at_junction
        turns = at_junction & ((actions == LEFT) | (actions == RIGHT))
        right = turns & ((actions == RIGHT) == (self._history[:, 0] == 1))
        wrong = turns & ~right
        delays = ~walks & ~turns & (actions <= RIGHT)
        rewards = config.goal_reward * right + config.wrong_penalty * wrong + config.delay_penalty * delays

        self._x += walks
        self._left -= right
        won = right & (self._left == 0)
        goes_on = np.flatnonzero(right & ~won)
        if len(goes_on):
            self._enter(goes_on)
        terminated = wrong | won
        truncated = (self._time >= 2 * (self._length + 1)) & ~terminated
        return Transition(self._observe(terminated), rewards, terminated, truncated, won)

    def _observe(self, ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        observations = np.zeros(self.observation_space.shape or (), np.float32)
        observations[:, _CUE] = (self._sign == CUE_RIGHT).astype(int) - (self._sign == CUE_LEFT)
        observations[:, _FLAG] = (self._x == self._length) & ~ended
        observations[:, _NOISE] = self._streams.draw() % 3
        observations[:, _NOISE] -= 1
        if self.config.runes:
            for column, sign in enumerate(_SIGNS.values(), start=_NOISE + 1):
                observations[:, column] = self._sign == sign
        if not self.config.ambiguous_position:
            observations[:, -1] = self._x / self._length
        self._sign[:] = NOTHING
        return observations

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw the corridor that the agent is in: uint8 (80, width, 3). Of a long one, draw the part around the agent.

        The agent is black, the start blue, the right turn green and the wrong one orange. The bottom row has a white
        cell for each corridor left, as far as they fit. An edge of the picture is grey where the corridor continues
        beyond it.
        """
        x, length, left = int(self._x[lane]), int(self._length[lane]), int(self._left[lane])
        width = min(self.config.lengths[1] + 1, _VIEW)
        first = max(min(x - width // 2, length + 1 - width), 0)
        columns = np.arange(first - 1, first + width + 1)  # with an edge on either side
        cells = np.full((5, width + 2, 3), _WALL, np.uint8)
        cells[2, (columns >= 0) & (columns <= length)] = _FLOOR
        cells[2, columns == 0] = _START
        side = -int(self._history[lane, 0])  # left is up
        cells[2 + side, columns == length], cells[2 - side, columns == length] = _WAY, _OTHER
        edges = cells[2, [0, -1]]
        cells[2, [0, -1]] = np.where((edges == _WALL).all(-1, keepdims=True), edges, np.array(_FADED, np.uint8))
        cells[4, 1 : 1 + min(left, width)] = _FLOOR
        image = cells.repeat(_CELL, 0).repeat(_CELL, 1)
        image[::_CELL] = image[:, ::_CELL] = _WALL
        edge = (x - first + 1) * _CELL
        image[2 * _CELL + 4 : 3 * _CELL - 3, edge + 4 : edge + _CELL - 3] = _AGENT
        return image


class EndlessTMaze(Lane[Config]):
    """Single Endless T-Maze: an `EndlessTMazeVector` of size 1, without batch axis and autoreset."""

    vector = EndlessTMazeVector


class Expert:
    """Optimal policy: forward to the junction, then the turn of the hidden cue, which it follows by the signs shown.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._has_runes = bool(config.runes)

    def predict(
        self,
        observation: NDArray[np.float32] | Mapping[str, NDArray[np.float32]],
        state: Ints | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Ints, Ints]:
        """Choose an action for each of n environments.

        Args:
            observation: (n, 3 to 8), or a Dict with this array under "observation".
            state: The histories of the cues (n, 4), see `updated`. None means that none was shown.
            episode_start: (n,), True where the observation is an episode's first. The old cues are forgotten there.
            deterministic: Unused, since the expert is deterministic.

        Returns:
            Actions (n,) and the next state. At a junction without a known cue, the action is left.
        """
        seen = observation["observation"] if isinstance(observation, Mapping) else observation
        history = np.zeros((len(seen), 4), np.int64) if state is None else state
        if episode_start is not None:
            history = np.where(episode_start[:, None], 0, history)
        history = updated(history, _shown(seen, self._has_runes))
        turn = np.where(history[:, 0] == 1, RIGHT, LEFT)
        return np.where(seen[:, _FLAG] == 1, turn, FORWARD), history


def _shown(seen: NDArray[np.float32], has_runes: bool) -> Ints:
    """Return the sign that each observation (n, 3 to 8) shows, int64 (n,)."""
    signs = np.where(seen[:, _CUE] == 1, CUE_RIGHT, np.where(seen[:, _CUE] == -1, CUE_LEFT, NOTHING))
    if has_runes:
        for column, sign in enumerate(_SIGNS.values(), start=_NOISE + 1):
            signs = np.where(seen[:, column] == 1, sign, signs)
    return signs


def _seen(trajectory: Trajectory) -> NDArray[np.float32]:
    """Return the observations of a trajectory but the last, (T, 3 to 8)."""
    observations = trajectory.observations
    array = observations["observation"] if isinstance(observations, dict) else observations
    seen: NDArray[np.float32] = np.asarray(array)[:-1]
    return seen


def hindsight(trajectory: Trajectory) -> Ints:
    """Return for each step the right turn at the next junction, int64 (T,): 0 left, 1 right, -1 if no turn follows."""
    actions, rewards = np.asarray(trajectory.actions), np.asarray(trajectory.rewards)
    turns = np.flatnonzero((_seen(trajectory)[:, _FLAG] == 1) & (actions != FORWARD))
    right = (actions[turns] == RIGHT) == (rewards[turns] > 0)
    following = np.searchsorted(turns, np.arange(len(trajectory)))
    classes: Ints = np.append(right.astype(np.int64), -1)[following]
    return classes


def decisive(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps at a junction, where the cue must be known."""
    at_junction: NDArray[np.bool_] = _seen(trajectory)[:, _FLAG] == 1
    return at_junction


def idle(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps inside corridors: without cue, rune and junction.

    A filler segment is a run of such steps. The longest run is a cell shorter than the longest corridor.
    """
    seen = _seen(trajectory)
    has_runes = seen.shape[1] > _NOISE + len(_SIGNS)
    quiet: NDArray[np.bool_] = (_shown(seen, has_runes) == NOTHING) & (seen[:, _FLAG] == 0)
    return quiet


make = EndlessTMaze
make_vec = EndlessTMazeVector
