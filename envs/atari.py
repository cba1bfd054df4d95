"""Atari: any game of the Arcade Learning Environment, by default Breakout, for at most 27,000 steps, from 4 frames.

What the stacked frames leave out must be remembered: with 4 of them seldom anything in Breakout, with 1 how the ball
moves, from one step to the next. Pictures are made as is usual since DQN (Mnih et al., 2015): 4 frames a step, the
brighter of the last two in each pixel, which undoes flicker, in grey, 84 x 84 pixels by averaging areas; an episode
begins with a random number of frames of doing nothing. Losing a life does not end it, and rewards aren't clipped.
By default an action is repeated instead of the next one in a quarter of the frames (Machado et al., 2018,
arXiv:1709.06009), so that no sequence of actions learnt by heart plays the game.

What random actions and the expert reach in Breakout: experiments/ceilings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import gymnasium
import numpy as np
from ale_py import ALEInterface, AtariEnv, LoggerMode, roms
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from rmt_rl.config import validated
from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.envs._privileged import simulators
from rmt_rl.errors import UsageError, nearest

ID = "rmt_rl/Atari-v0"
EXTRA = "atari"
EPISODES = 50

_SKIP, _SIZE = 4, 84  # frames a step, pixels on a side of what is observed

NOOP, FIRE, RIGHT, LEFT = range(4)  # Breakout's actions
_PADDLE, _BALL_X, _BALL_Y = 72, 99, 101  # where Breakout's memory holds these, in pixels from different origins
_OFFSET = 9  # ball x - paddle x where the paddle's middle is under the ball
_LEFT_WALL, _RIGHT_WALL, _FLOOR = 56, 199, 178  # the ball's least and greatest x; its y when it meets the paddle
_COAST = 10  # pixels that the paddle still moves after a step of pushing it, with no push in the next
_SLACK = 8  # pixels beside its aim where the paddle is left alone; a single push moves it by 19


@cache
def _roms() -> dict[str, str]:
    """The file of each game that ALE comes with, by the game's name."""
    return {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids()}


def _known(game: str) -> str:
    if game not in _roms():
        raise ValueError(f"ALE has no such game{nearest(game, list(_roms()))}")
    return game


class Config(BaseModel, frozen=True, extra="forbid"):
    """Options of Atari games; the defaults are those of ALE's v5 environments, with four frames stacked."""

    game: Annotated[str, AfterValidator(_known)] = Field(
        "Breakout", description="the game as Gymnasium's ids spell it, e.g. Breakout, MsPacman"
    )
    frames: int = Field(4, ge=1, le=64, description="pictures in an observation, >= 1, the newest last")
    repeat_action_probability: float = Field(
        0.25, ge=0, lt=1, description="chance, in [0, 1), that a frame repeats the action of the frame before"
    )
    noops: int = Field(30, ge=0, le=1000, description="most frames of doing nothing before an episode, >= 0")
    max_steps: int = Field(27_000, ge=1, le=10**9, description="steps after which an episode is cut off, >= 1")


class Atari(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """A game of the Arcade Learning Environment.

    Observations: uint8 (84, 84, frames), grey pictures, the newest last; at an episode's start all are the first one.

    Actions: those that the game uses, 0 does nothing. In Breakout 1 serves the ball, 2 moves right, 3 left.

    Rewards: what the step adds to the game's score.

    An episode terminates with the game and is truncated after `max_steps` steps.

    Args:
        render_mode: None, or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: a bad argument.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = config = validated(Config, options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        ALEInterface.setLoggerMode(LoggerMode.Error)  # it greets otherwise
        self._console = AtariEnv(
            _roms()[config.game],
            obs_type="ram",  # the cheapest; pictures are taken here
            frameskip=1,
            repeat_action_probability=config.repeat_action_probability,
        )
        self.ale = self._console.ale
        self._codes = self.ale.getMinimalActionSet()
        self.action_space = spaces.Discrete(len(self._codes))
        self.observation_space = spaces.Box(0, 255, (_SIZE, _SIZE, config.frames), np.uint8)
        height, width = self.ale.getScreenDims()
        self._rows, self._columns = _areas(height), _areas(width).T
        self._screens = np.zeros((2, height, width), np.uint8)  # of the last two frames
        self._stack = np.zeros(self.observation_space.shape, np.uint8)
        self._time = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: None goes on with the random streams.
            options: Must be empty.

        Returns:
            The first observation and an empty info.

        Raises:
            UsageError: any options.
        """
        check_no_options(options)
        super().reset(seed=seed)
        self._console.reset(seed=seed)
        for _ in range(self.np_random.integers(self.config.noops, endpoint=True)):
            self.ale.act(self._codes[0])
            if self.ale.game_over():
                self.ale.reset_game()
        self.ale.getScreenGrayscale(self._screens[0])
        self._screens[1] = self._screens[0]
        self._stack = np.repeat(self._picture()[..., None], self.config.frames, axis=2)
        self._time, self._running = 0, True
        return self._stack.copy(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold an action for four frames, or until the game is over.

        Raises:
            UsageError: an action that there isn't.
            ResetNeeded: before the first `reset`, or after the episode's end.
        """
        check_running(self._running)
        if not self.action_space.contains(action):
            raise UsageError(f"action={action}: must be an integer in 0..{len(self._codes) - 1}")
        reward, over = 0.0, False
        for frame in range(_SKIP):
            reward += self.ale.act(self._codes[action])
            over = self.ale.game_over()
            if over or frame >= _SKIP - 2:
                self.ale.getScreenGrayscale(self._screens[frame % 2])
            if over:
                break
        self._stack = np.concatenate([self._stack[..., 1:], self._picture()[..., None]], axis=2)
        self._time += 1
        cut = self._time >= self.config.max_steps and not over
        self._running = not (over or cut)
        return self._stack.copy(), reward, over, cut, {}

    def render(self) -> NDArray[np.uint8]:
        """Return the screen: uint8 (210, 160, 3), in some games higher.

        Raises:
            UsageError: made without `render_mode="rgb_array"`.
        """
        check_drawable(self.render_mode)
        return np.asarray(self.ale.getScreenRGB(), np.uint8)

    def _picture(self) -> NDArray[np.uint8]:
        brightest = self._screens.max(0).astype(np.float32)
        averaged: NDArray[np.float32] = self._rows @ brightest @ self._columns
        return np.rint(averaged).astype(np.uint8)


@cache
def _areas(pixels: int) -> NDArray[np.float32]:
    """Return weights, float32 (84, pixels), that average a line of pixels into 84 by the areas they share."""
    edges, old = np.arange(_SIZE + 1) * pixels / _SIZE, np.arange(pixels)
    shared = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return (shared.clip(0) * _SIZE / pixels).astype(np.float32)


class Expert:
    """Moves Breakout's paddle to where the ball will come down; for other games there is none.

    It reads where ball and paddle are in the console's memory; the observed pictures show both. While the ball rises
    it keeps the paddle below it. Actions that the game repeats now and then make it miss sometimes.

    Args:
        config: Options of the environment it plays.
        seed: Not needed, it never draws.

    Raises:
        UsageError: the game is another one.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        if config.game != "Breakout":
            raise UsageError(f"game={config.game!r} has no expert; let a trained agent play, with --policy RUN")
        self._games: Sequence[Atari] = ()

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Take the environments to look into.

        Raises:
            UsageError: its lanes are not `Atari` environments in this process.
        """
        self._games = simulators(env, Atari)

    def predict(
        self,
        observation: Any,
        state: NDArray[np.int64] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose an action for each of n lanes.

        Args:
            observation: Not needed, it looks into the lanes' consoles.
            state: The ball's last x and y and the last action (n, 3); y is 0 where there was no ball. None is all 0.
            episode_start: (n,), True where the observation is an episode's first: the lane's state is 0.
            deterministic: Not needed, it always is.

        Returns:
            Actions (n,) and the next state.

        Raises:
            UsageError: `attach` was not called.
        """
        if not self._games:
            raise UsageError(f"the expert of {ID} looks into the environment: call attach(env) before it is reset")
        state = np.zeros((len(self._games), 3), np.int64) if state is None else state.copy()
        if episode_start is not None:
            state[episode_start] = 0
        memory = np.array([game.ale.getRAM()[[_BALL_X, _BALL_Y, _PADDLE]] for game in self._games], np.int64)
        x, y, paddle = memory.T
        rest = paddle + _COAST * ((state[:, 2] == RIGHT).astype(np.int64) - (state[:, 2] == LEFT))
        way = _landing(x, y, x - state[:, 0], np.where(state[:, 1] > 0, y - state[:, 1], 0)) - _OFFSET - rest
        actions = np.where(way > _SLACK, RIGHT, np.where(way < -_SLACK, LEFT, NOOP))
        actions = np.where(y == 0, FIRE, actions)
        return actions, np.stack([x, y, actions], 1)


def _landing(
    x: NDArray[np.int64], y: NDArray[np.int64], dx: NDArray[np.int64], dy: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Where falling balls meet the paddle's height, bouncing off the walls; of other balls, x. All (n,), pixels."""
    straight = x + dx * np.maximum(_FLOOR - y, 0) / np.maximum(dy, 1)
    width = _RIGHT_WALL - _LEFT_WALL
    there_and_back = (straight - _LEFT_WALL) % (2 * width)
    folded = _LEFT_WALL + np.minimum(there_and_back, 2 * width - there_and_back)
    return np.where(dy > 0, folded, x)


make = Atari
