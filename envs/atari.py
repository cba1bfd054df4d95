"""Atari: any game of ALE, by default Breakout, up to 27,000 steps; with 4 stacked frames little must be remembered.

ALE is the Arcade Learning Environment. The agent must remember what the stacked frames leave out. In Breakout 4 frames
seldom leave out anything; 1 frame leaves out how the ball moves, which must be remembered from one step to the next.

Preprocessing follows DQN (Mnih et al., 2015). A step is 4 frames. A picture is the brighter of the last two frames in
each pixel, which removes flicker, in grey, averaged by areas to 84 x 84 pixels. An episode begins with a random number
of frames without action. Losing a life does not end the episode, and rewards aren't clipped. By default a quarter of
the frames repeat the action of the frame before (Machado et al., 2018, arXiv:1709.06009), so that no memorised
sequence of actions plays the game.

experiments/ceilings shows what random actions and the expert reach in Breakout.
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
from pydantic import AfterValidator, Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.envs._privileged import simulators
from rmt_rl.errors import UsageError, nearest

ID = "rmt_rl/Atari-v0"
EXTRA = "atari"
EPISODES = 50

_SKIP, _SIZE = 4, 84  # frames per step, side of an observation in pixels

NOOP, FIRE, RIGHT, LEFT = range(4)  # Breakout's actions
_PADDLE, _BALL_X, _BALL_Y = 72, 99, 101  # addresses in Breakout's memory; values in pixels from different origins
_OFFSET = 9  # ball x - paddle x when the paddle's middle is under the ball
_LEFT_WALL, _RIGHT_WALL, _FLOOR = 56, 199, 178  # the ball's least and greatest x; its y when it meets the paddle
_COAST = 10  # pixels that the paddle still moves in the step after a push, if this step doesn't push it
_SLACK = 8  # pixels from its aim within which the paddle is left alone; a single push moves it by 19


@cache
def _roms() -> dict[str, str]:
    """Return the ROM's identifier for each game that comes with ALE, by the game's name."""
    return {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids()}


def _known(game: str) -> str:
    if game not in _roms():
        raise ValueError(f"ALE has no such game{nearest(game, list(_roms()))}")
    return game


class Config(Frozen):
    """Options of Atari games. The defaults are those of ALE's v5 environments, with four stacked frames."""

    game: Annotated[str, AfterValidator(_known)] = Field(
        "Breakout", description="name of the game, spelt as in Gymnasium's ids, e.g. Breakout, MsPacman"
    )
    frames: int = Field(4, ge=1, le=64, description="stacked pictures in an observation, >= 1, the newest last")
    repeat_action_probability: float = Field(
        0.25, ge=0, lt=1, description="probability, in [0, 1), that a frame repeats the action of the frame before"
    )
    noops: int = Field(30, ge=0, le=1000, description="most frames without action before an episode, >= 0")
    max_steps: int = Field(27_000, ge=1, le=10**9, description="steps after which an episode is truncated, >= 1")


class Atari(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Game of the Arcade Learning Environment.

    Observations: uint8 (84, 84, frames), grey pictures, the newest last. At an episode's start all are the first one.

    Actions: those that the game uses. 0 does nothing. In Breakout 1 serves the ball, 2 moves right, 3 moves left.

    Rewards: the increase of the game's score in the step.

    An episode terminates when the game is over, and is truncated after `max_steps` steps.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = config = validated(Config, options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        ALEInterface.setLoggerMode(LoggerMode.Error)  # suppress its greeting
        self._console = AtariEnv(
            _roms()[config.game],
            obs_type="ram",  # the cheapest type; `_picture` makes the observations
            frameskip=1,
            repeat_action_probability=config.repeat_action_probability,
        )
        self.ale = self._console.ale
        self._codes = self.ale.getMinimalActionSet()
        self.action_space = spaces.Discrete(len(self._codes))
        self.observation_space = spaces.Box(0, 255, (_SIZE, _SIZE, config.frames), np.uint8)
        height, width = self.ale.getScreenDims()
        self._rows, self._columns = _areas(height), _areas(width).T
        self._screens = np.zeros((2, height, width), np.uint8)  # the last two frames, in grey
        self._stack = np.zeros(self.observation_space.shape, np.uint8)
        self._time = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seed of the random streams. None continues them.
            options: Must be empty.

        Returns:
            The first observation and an empty info.

        Raises:
            UsageError: `options` isn't empty.
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
            UsageError: the action is not in the action space.
            ResetNeeded: `reset` was never called, or the episode has ended.
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
        """Return the screen: uint8 (210, 160, 3), in some games with more rows.

        Raises:
            UsageError: the environment was made without `render_mode="rgb_array"`.
        """
        check_drawable(self.render_mode)
        return np.asarray(self.ale.getScreenRGB(), np.uint8)

    def _picture(self) -> NDArray[np.uint8]:
        brightest = self._screens.max(0).astype(np.float32)
        averaged: NDArray[np.float32] = self._rows @ brightest @ self._columns
        return np.rint(averaged).astype(np.uint8)


@cache
def _areas(pixels: int) -> NDArray[np.float32]:
    """Return the weights, float32 (84, pixels), that average a line of pixels to 84 pixels by shared area."""
    edges, old = np.arange(_SIZE + 1) * pixels / _SIZE, np.arange(pixels)
    shared = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return (shared.clip(0) * _SIZE / pixels).astype(np.float32)


class Expert:
    """Policy that moves Breakout's paddle to where the ball will come down. Other games have no expert.

    The expert reads the positions of ball and paddle from the console's memory; the observed pictures show both. While
    the ball rises, the expert keeps the paddle below it. It sometimes misses, since the game repeats actions at random.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.

    Raises:
        UsageError: the game isn't Breakout.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        if config.game != "Breakout":
            raise UsageError(f"game={config.game!r} has no expert; let a trained agent play it with --policy RUN")
        self._games: Sequence[Atari] = ()

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Set the vector environment whose simulators the expert reads.

        Raises:
            UsageError: its environments are not `Atari` environments in this process.
        """
        self._games = simulators(env, Atari)

    def predict(
        self,
        observation: Any,
        state: NDArray[np.int64] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose an action for each of n environments.

        Args:
            observation: Unused, since the expert reads the consoles' memory.
            state: The ball's last x and y and the last action (n, 3); y is 0 where there was no ball. None means all 0.
            episode_start: (n,), True where the observation is an episode's first. The state is reset to 0 there.
            deterministic: Unused, since the expert is deterministic.

        Returns:
            Actions (n,) and the next state.

        Raises:
            UsageError: `attach` was not called.
        """
        if not self._games:
            raise UsageError(f"the expert of {ID} reads the simulators' state: call attach(env) before env.reset()")
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
    """Return x where falling balls reach the paddle's height, after bounces; x of other balls. All (n,), pixels."""
    straight = x + dx * np.maximum(_FLOOR - y, 0) / np.maximum(dy, 1)
    width = _RIGHT_WALL - _LEFT_WALL
    there_and_back = (straight - _LEFT_WALL) % (2 * width)
    folded = _LEFT_WALL + np.minimum(there_and_back, 2 * width - there_and_back)
    return np.where(dy > 0, folded, x)


make = Atari
