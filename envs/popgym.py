"""POPGym: 16 tasks in 3 sizes, up to 1,023 steps; e.g. repeat_previous: name the card of 3, 31 or 63 steps ago.

Tasks and rewards are those of POPGym (Morad et al., 2023, arXiv:2303.01859; package popgym). Returns, from about -1 to
1 per episode, can therefore be compared with published ones. POPGym's baselines add the previous action to the
observation. Here it is left out, since agents see their own actions anyway. Other adaptations:

- The environment's seed determines an episode, also in labyrinths, which POPGym draws from global generators.
- Infos are empty, because some of POPGym's infos reveal the hidden state.
- Observations have the dtype of their space. Velocities have finite bounds, which they never reach.
- A pendulum's action is its torque divided by the largest torque, from -1 to 1.
- `render` draws the last observation, the last action and the hidden state.

Two peculiarities of POPGym are kept: the first observation of `velocity_only_cartpole` holds positions, and the
labyrinths' view of 3 x 3 cells is shifted where the agent stands on the upper or left edge.

| task | what must be remembered | the expert, which sees only what an agent sees |
|---|---|---|
| autoencode | all cards, to name them backwards | remembers them |
| battleship | squares fired at, and hits | counts the fleets consistent with them |
| concentration | the faces of cards turned down again | remembers them |
| count_recall | how often each card was dealt | counts |
| higher_lower | how many of each card are left | counts |
| labyrinth_escape, labyrinth_explore | (places visited) | follows the right-hand wall by view and last action |
| minesweeper | squares uncovered, and their numbers | counts the boards consistent with them |
| multiarmed_bandit | how often each bandit was tried and paid | chooses by upper confidence bounds |
| position_only_cartpole, position_only_pendulum | the last positions, for velocities | Kalman filter, feedback |
| noisy_position_only_cartpole, noisy_position_only_pendulum | more positions, to average | Kalman filter, feedback |
| velocity_only_cartpole | the first positions, and their changes since | Kalman filter, feedback |
| repeat_first | the first card | remembers it |
| repeat_previous | the last 4, 32 or 64 cards | remembers them |
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium
import mazelib  # noqa: F401 - without it popgym has no labyrinths
import numpy as np
import popgym.envs
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.envs._popgym_experts import PLAYERS
from rmt_rl.envs._popgym_player import Player
from rmt_rl.errors import UsageError

ID = "rmt_rl/POPGym-v0"
EXTRA = "popgym"

Name = Literal[
    "autoencode",
    "battleship",
    "concentration",
    "count_recall",
    "higher_lower",
    "labyrinth_escape",
    "labyrinth_explore",
    "minesweeper",
    "multiarmed_bandit",
    "noisy_position_only_cartpole",
    "noisy_position_only_pendulum",
    "position_only_cartpole",
    "position_only_pendulum",
    "repeat_first",
    "repeat_previous",
    "velocity_only_cartpole",
]

_FASTEST = 10.0
"""Bound of a cart-pole's velocities, in m/s and rad/s. From one end of the range to the other (4.8 m, 0.42 rad), the
motor's force (10 N on 1.1 kg) and gravity accelerate it to less."""

_CELL, _LINE, _WIDTH = 20, 16, 26 * 20  # of a picture, in pixels: a cell, a line of text, the longest row
_INK, _PAPER = (40, 44, 52), (250, 250, 247)
_LOW, _HIGH = (68, 84, 150), (253, 220, 110)  # colours of an array's least and largest numbers


class Config(Frozen):
    """Options of POPGym: one of 48 tasks."""

    task: Name = Field("repeat_previous", description="one of POPGym's 16 tasks")
    difficulty: Literal["easy", "medium", "hard"] = Field("easy", description="size of the task: easy, medium or hard")


def game_of(config: Config) -> Any:
    """Make the environment of POPGym that the config names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Maze environments", DeprecationWarning)  # warns that they need little memory
        return next(
            game()
            for game in popgym.envs.ALL
            if game.__module__.endswith(f".{config.task}") and game.__name__.lower().endswith(config.difficulty)
        )


@contextmanager
def _global_generators(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators inside the context, and restore their states at its end."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _bounded(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box) and not space.is_bounded():
        return spaces.Box(-_FASTEST, _FASTEST, space.shape, np.float32)
    return space


def _typed(space: spaces.Space[Any], value: Any) -> Any:
    """Return an observation with its space's dtype, in arrays that are copies of the game's."""
    if isinstance(space, spaces.Tuple):
        return tuple(_typed(*each) for each in zip(space.spaces, value, strict=True))
    return np.int64(value) if isinstance(space, spaces.Discrete) else np.array(value, space.dtype)


class POPGym(gymnasium.Env[Any, Any]):
    """Task of POPGym that follows Gymnasium's conventions.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        check_render_mode(render_mode)
        self.config, self.render_mode = validated(Config, options), render_mode
        self.game = game_of(self.config)
        self.observation_space, self.action_space = _bounded(self.game.observation_space), self.game.action_space
        self._torque: NDArray[np.float32] | None = None
        if isinstance(self.action_space, spaces.Box):
            self._torque, self.action_space = self.action_space.high, spaces.Box(-1, 1, (1,), np.float32)
        self._running = False
        self._last: tuple[Any, Any, int, float] = (None, None, 0, 0.0)  # observation, action, step, return

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode. Return its first observation and an empty info.

        Raises:
            UsageError: `options` isn't empty.
        """
        super().reset(seed=seed)
        check_no_options(options)
        episode = int(self.np_random.integers(2**31))
        with _global_generators(episode):
            observation = _typed(self.observation_space, self.game.reset(seed=episode)[0])
        self._running, self._last = True, (observation, None, 0, 0.0)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step. The info is empty.

        Raises:
            UsageError: the action is not in the action space. A pendulum's torque is clipped instead.
            ResetNeeded: `reset` was never called, or the episode has ended.
        """
        check_running(self._running)
        if self._torque is None and not self.action_space.contains(action):
            raise UsageError(f"action={action!r}: must be in {self.action_space}")
        scaled = action if self._torque is None else action * self._torque
        observation, reward, terminated, truncated, _ = self.game.step(scaled)
        observation, reward = _typed(self.observation_space, observation), float(reward)
        self._running = not (terminated or truncated)
        self._last = observation, action, self._last[2] + 1, self._last[3] + reward
        return observation, reward, bool(terminated), bool(truncated), {}

    def render(self) -> NDArray[np.uint8]:
        """Draw the last observation and action, and the hidden state, as numbers in cells: uint8 (height, width, 3).

        Raises:
            UsageError: the environment was made without `render_mode="rgb_array"`.
        """
        check_drawable(self.render_mode)
        observation, action, step, total = self._last
        if action is None:
            action = np.zeros(self.action_space.shape or (), self.action_space.dtype)
        blocks = [("saw", observation), ("did" if step else "did nothing yet", action), ("state", self._hidden())]
        title = f"{self.config.task}, {self.config.difficulty}: step {step}, return {total:.2f}"
        return _picture(title, [(name, part) for name, value in blocks for part in _parts(value)])

    def _hidden(self) -> Any:
        """Return the hidden state. A labyrinth marks the agent's place by 5, and a mine field has the board's shape."""
        state = self.game.get_state()
        if hasattr(self.game, "maze"):
            state[self.game.position] = 5
        return state.reshape(self.game.dims) if hasattr(self.game, "dims") else state


def _parts(value: Any) -> list[NDArray[Any]]:
    return [np.asarray(part) for part in value] if isinstance(value, tuple) else [np.asarray(value)]


def _rows(numbers: NDArray[Any], columns: int) -> list[NDArray[Any]]:
    """Return the rows of a picture: a board's own rows, or rows of `columns` numbers."""
    flat = numbers.ravel()
    return list(numbers) if numbers.ndim == 2 else np.split(flat, range(columns, flat.size, columns))


def _picture(title: str, blocks: list[tuple[str, NDArray[Any]]]) -> NDArray[np.uint8]:
    """Draw arrays below each other, each number in a cell coloured by its size relative to its array's extremes."""
    parts = []
    for name, numbers in blocks:
        width = _CELL if numbers.dtype.kind in "iub" else 2 * _CELL
        parts.append((name, width, _rows(numbers, _WIDTH // width), min(numbers.min(), 0), max(numbers.max(), 1)))
    height = 2 * _LINE + sum(_LINE + _CELL * len(rows) for _, _, rows, _, _ in parts)
    image = Image.new("RGB", (_WIDTH + 2 * _LINE, height + _LINE), _PAPER)
    draw, top = ImageDraw.Draw(image), 2 * _LINE
    draw.text((_LINE, _LINE // 2), title, _INK)
    for name, width, rows, low, high in parts:
        draw.text((_LINE, top), name, _INK)
        top += _LINE
        for row in rows:
            for column, number in enumerate(row):
                left, share = _LINE + column * width, (number - low) / (high - low)
                draw.rectangle((left, top, left + width - 2, top + _CELL - 2), _shade(share))
                text = f"{number:.2f}" if width > _CELL else str(int(number))
                draw.text((left + width // 2, top + _CELL // 2), text, _PAPER if share < 0.5 else _INK, anchor="mm")
            top += _CELL
    return np.asarray(image)


def _shade(share: float) -> tuple[int, ...]:
    """Return the colour of a number by its place between its array's extremes, from 0 to 1."""
    return tuple(int(low + share * (high - low)) for low, high in zip(_LOW, _HIGH, strict=True))


class Expert:
    """Policy that plays as well as the observations allow, with a perfect memory of them (see the table above).

    The expert doesn't read the simulators' state, and draws nothing at random.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._rules = game_of(config)  # read for the rules, never played
        self._play = PLAYERS[config.task]

    def predict(
        self,
        observation: Any,
        state: list[Player] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], list[Player]]:
        """Choose an action for each of n environments.

        Args:
            observation: (n, ...), or a tuple of such arrays, or a Dict with either under "observation".
            state: One player per environment, from the previous call. `predict` changes them. None makes new players.
            episode_start: (n,), True where the observation is an episode's first. A new player begins there.
            deterministic: Unused, since the expert is deterministic.

        Returns:
            Actions (n, ...) and the players.
        """
        observation = observation["observation"] if isinstance(observation, dict) else observation
        lanes = list(zip(*observation, strict=True) if isinstance(observation, tuple) else observation)
        starts = [state is None] * len(lanes) if episode_start is None else episode_start
        old = [None] * len(lanes) if state is None else state
        players = [
            self._play(self._rules) if start or player is None else player
            for start, player in zip(starts, old, strict=True)
        ]
        actions = [player.act(seen) for player, seen in zip(players, lanes, strict=True)]
        return np.array(actions, self._rules.action_space.dtype), players

    def replace_actions(self, state: list[Player], actions: Any, replaced: NDArray[np.bool_]) -> list[Player]:
        """Tell the players where another action than theirs is done; see `rmt_rl.task.Informed`."""
        for lane in np.flatnonzero(replaced):
            state[lane].replace(actions[lane])
        return state


make = POPGym
