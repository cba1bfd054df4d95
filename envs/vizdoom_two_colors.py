"""ViZDoom-Two-Colors: up to 1,050 steps; recall throughout the colour of a pillar seen in the first 45 steps only.

The task is that of RATE (Cherepanov et al., 2023, arXiv:2306.09459), rebuilt from its description. The map, the objects
and the numbers that the paper leaves open are our own. ViZDoom moves the player, finds who touches what, and draws.
This module decides health, rewards, and where objects appear, so that a seed determines an episode.

experiments/ceilings shows what random actions, the expert, and the expert blind to the colour reach. These returns
can't be compared with the paper's.
"""

from __future__ import annotations

import struct
import weakref
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gymnasium
import numpy as np
import vizdoom
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._checks import check_no_options, check_render_mode, check_running
from rmt_rl.envs._privileged import simulators
from rmt_rl.errors import UsageError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

ID = "rmt_rl/ViZDoomTwoColors-v0"
EXTRA = "vizdoom"
EPISODES = 200

LEFT, RIGHT, FORWARD, FORWARD_LEFT, FORWARD_RIGHT = range(5)
COLOURS = ("red", "green")

_TURN = 3.0  # degrees per tic
# By action: degrees per tic to turn right, and whether to go forward.
_BUTTONS = [[-_TURN, 0.0], [_TURN, 0.0], [0.0, 1.0], [-_TURN, 1.0], [_TURN, 1.0]]
_IDLE, _SETTLE = [0.0, 0.0], 10  # buttons, and tics until things have appeared and the player may move
_FULL_HEALTH = 100.0

# Lengths are in the engine's units; the player is 32 wide and walks about 8 per tic.
_HALF = 320  # from the room's centre to its walls
_START = -224  # initial y of the player, who looks north at the pillar in the centre
_MARGIN, _APART, _AWAY = 40, 72, 120  # least distance of a new object from walls, from other objects, from the player
_SCREEN = (120, 160)  # rows and columns that the engine draws; the observation has half of each
_ZOOM, _BAR = 3, 24  # of a picture: enlargement of the screen, pixel rows of the health bar
_PAINT = {"red": (214, 40, 40), "green": (60, 190, 70)}


class Config(Frozen):
    """Options of ViZDoom-Two-Colors. The defaults are the training task."""

    memory_steps: int = Field(45, ge=1, le=10**6, description="number of first steps at which the pillar stands")
    max_steps: int = Field(1050, ge=1, le=10**6, description="steps after which an episode is truncated")
    colour: Literal["random", "red", "green"] = Field("random", description="the pillar's colour")
    frame_skip: int = Field(4, ge=1, le=35, description="game tics (1/35 s) per step")
    objects: int = Field(6, ge=1, le=12, description="objects of each colour in the room at any time")
    health_drain: float = Field(1.0, ge=0, le=100, description="health lost per step, of 100 at first and at most")
    health_change: float = Field(
        25.0, ge=0, le=100, description="health that objects of the pillar's colour give and others take"
    )
    living_reward: float = Field(0.02, ge=0, le=1, description="reward for each step that the player survives")


class Situation(NamedTuple):
    """State for privileged policies. Positions are in the engine's units, from the room's centre."""

    position: NDArray[np.float64]  # (2,) x and y of the player
    heading: float  # direction of the player in radians, counter-clockwise from east
    right: NDArray[np.float64]  # (objects, 2) places of the objects of the pillar's colour
    wrong: NDArray[np.float64]  # (objects, 2) places of the objects of the other colour


class TwoColors(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Square room with red and green objects, and for the first steps a red or green pillar in its centre.

    Observations: uint8 (60, 80, 3), the player's view, RGB. It shows neither health nor an object's effect on health.

    Actions: 0 turn left, 1 turn right, 2 forward, 3 forward and left, 4 forward and right; 3 degrees per tic.

    Rewards: 1 for each object of the pillar's colour picked up by walking over it, and `living_reward` for surviving.

    An object of the pillar's colour gives `health_change` health, an object of the other colour takes as much. A new
    object of the same colour appears elsewhere. An episode terminates when health, which drains, is used up, and is
    truncated after `max_steps` steps. Agents are measured by return.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 9}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (_SCREEN[0] // 2, _SCREEN[1] // 2, 3), np.uint8)
        self.action_space = spaces.Discrete(len(_BUTTONS))
        self._game = vizdoom.DoomGame()
        self._stop: weakref.finalize[..., TwoColors] | None = None  # not None while the engine runs
        self._screen = np.zeros((*_SCREEN, 3), np.uint8)
        self._player: NDArray[np.float64] = np.zeros(3)  # x, y, angle in degrees
        self._lying: dict[str, NDArray[np.float64]] = {}  # colour -> (n, 2)
        self._colour, self._health, self._time = COLOURS[0], 0.0, 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode. Before the first episode, start the engine.

        Args:
            seed: Seed of the random stream of colours and positions. None continues it.
            options: Must be empty.

        Returns:
            An observation and an empty info.

        Raises:
            UsageError: `options` isn't empty.
        """
        super().reset(seed=seed)
        check_no_options(options)
        if self._stop is None:
            folder = Path(mkdtemp(prefix="two-colors-"))
            self._stop = weakref.finalize(self, _stop, self._game, folder, Path.cwd() / "_vizdoom")
            _launch(self._game, folder, self.config)
        chosen = self.config.colour
        self._colour = COLOURS[self.np_random.integers(2)] if chosen == "random" else chosen
        self._health, self._time, self._running = _FULL_HEALTH, 0, True
        self._game.new_episode()
        self._game.send_game_command(f"summon {self._colour}pillarseed 0 0 0 0 0")
        occupied = np.zeros((1, 2))
        for colour in COLOURS * self.config.objects:
            occupied = np.vstack([occupied, self._place(colour, np.array([0, _START]), occupied)])
        self._advance(_IDLE, _SETTLE)
        return self._look(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take one step of `frame_skip` tics.

        Raises:
            UsageError: the action is not in 0..4.
            ResetNeeded: `reset` was never called, or the episode has ended.
        """
        check_running(self._running)
        if action not in self.action_space:
            raise UsageError(f"action {action!r}: must be an integer in 0..{len(_BUTTONS) - 1}")
        self._advance(_BUTTONS[int(action)], self.config.frame_skip)
        self._time += 1
        right, wrong = self._replace_picked()
        self._health = min(self._health + (right - wrong) * self.config.health_change, _FULL_HEALTH)
        self._health -= self.config.health_drain
        terminated = self._health <= 0
        truncated = self._time >= self.config.max_steps and not terminated
        self._running = not (terminated or truncated)
        return self._look(), right + self.config.living_reward * (not terminated), terminated, truncated, {}

    def render(self) -> NDArray[np.uint8]:
        """Draw the player's view above a bar for health in the colour to recall: uint8 (384, 480, 3)."""
        if self._stop is None:
            raise ResetNeeded("nothing to draw yet: call reset() before render()")
        view = self._screen.repeat(_ZOOM, 0).repeat(_ZOOM, 1)
        bar = np.full((_BAR, view.shape[1], 3), 24, np.uint8)
        bar[3:-3, : round(max(self._health, 0) / _FULL_HEALTH * view.shape[1])] = _PAINT[self._colour]
        return np.concatenate([view, bar])

    def close(self) -> None:
        """Stop the engine and delete its files."""
        if self._stop is not None:
            self._stop()
        self._stop, self._running = None, False

    def situation(self) -> Situation:
        """Return the engine's state for privileged policies."""
        x, y, angle = self._player
        right, wrong = (self._lying[colour] for colour in self._right_and_wrong())
        return Situation(np.array([x, y]), np.deg2rad(angle), right, wrong)

    def _right_and_wrong(self) -> tuple[str, str]:
        return (COLOURS[0], COLOURS[1]) if self._colour == COLOURS[0] else (COLOURS[1], COLOURS[0])

    def _advance(self, buttons: list[float], tics: int) -> None:
        """Run the engine. Then read the screen, the player's place and angle, and the objects' places."""
        self._game.make_action(buttons, tics)
        state = self._game.get_state()
        self._screen, self._player = state.screen_buffer, np.asarray(state.game_variables)
        lying: dict[str, list[tuple[float, float]]] = {f"{colour}object": [] for colour in COLOURS}
        for each in state.objects:
            if each.name in lying:
                lying[each.name].append((each.position_x, each.position_y))
        self._lying = {colour: np.array(lying[f"{colour}object"]).reshape(-1, 2) for colour in COLOURS}

    def _look(self) -> NDArray[np.uint8]:
        pairs = self._screen[::2].astype(np.uint16) + self._screen[1::2]
        return ((pairs[:, ::2] + pairs[:, 1::2]) // 4).astype(np.uint8)

    def _replace_picked(self) -> tuple[int, int]:
        """Return how many objects of the pillar's and of the other colour are gone, and place as many new objects."""
        right, wrong = (self.config.objects - len(self._lying[colour]) for colour in self._right_and_wrong())
        occupied = np.vstack(list(self._lying.values()))
        for colour, gone in zip(self._right_and_wrong(), (right, wrong), strict=True):
            for _ in range(gone):
                occupied = np.vstack([occupied, self._place(colour, self._player[:2], occupied)])
        return right, wrong

    def _place(self, colour: str, player: NDArray[Any], occupied: NDArray[Any]) -> NDArray[np.int64]:
        """Add an object at the next tic, away from the player and occupied places (n, 2). Return its place (2,)."""
        limit = _HALF - _MARGIN
        while True:
            place = self.np_random.integers(-limit, limit, 2, endpoint=True)
            free = np.linalg.norm(occupied - place, axis=1).min(initial=np.inf) >= _APART
            if free and np.linalg.norm(player - place) >= _AWAY:
                break
        self._game.send_game_command(f"summon {colour}objectseed 0 0 0 {place[0]} {place[1]}")
        return place


class Expert:
    """Privileged policy that goes to the soonest reached object of the pillar's colour, around the other objects.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._turn = np.deg2rad(_TURN * config.frame_skip)
        self._pace = 8.25 * config.frame_skip
        self._envs: list[TwoColors] = []

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Set the vector environment whose simulators the expert reads.

        Raises:
            UsageError: its environments are not `TwoColors` environments in this process.
        """
        self._envs = simulators(env, TwoColors)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.int64], Any]:
        """Choose an action for each of n environments, int64 (n,), from the simulators' state. Arguments are unused.

        Raises:
            UsageError: `attach` was not called.
        """
        if not self._envs:
            raise UsageError("this expert reads the simulators' state: call attach(env) before predict()")
        return np.array([self.action(env.situation()) for env in self._envs]), None

    def action(self, now: Situation) -> int:
        """Choose an action for one environment."""
        if not len(now.right):  # all were just picked up, and new objects are yet to appear
            return FORWARD
        offsets = now.right - now.position
        distances = np.linalg.norm(offsets, axis=1)
        angles = np.arctan2(offsets[:, 1], offsets[:, 0]) - now.heading
        errors = (angles + np.pi) % (2 * np.pi) - np.pi
        blocked = _in_the_way(offsets, now.wrong - now.position)
        best = np.argmin(distances / self._pace + np.abs(errors) / self._turn + 12 * blocked)
        error, distance = errors[best], distances[best]
        if abs(error) <= self._turn / 2:
            return FORWARD
        # Walking while turning follows a circle. An object inside the circle is never reached.
        radius = self._pace / self._turn
        if distance < 2.5 * radius * abs(np.sin(error)) or abs(error) > np.pi / 3:
            return LEFT if error > 0 else RIGHT
        return FORWARD_LEFT if error > 0 else FORWARD_RIGHT


def _in_the_way(offsets: NDArray[np.float64], wrong: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many wrong objects (m, 2) each straight way from the origin to an offset (n, 2) touches: (n,)."""
    lengths = np.maximum(np.linalg.norm(offsets, axis=1, keepdims=True), 1e-6)
    along = np.clip(wrong @ (offsets / lengths).T, 0, lengths.T)  # (m, n)
    nearest = along[..., None] * (offsets / lengths)  # (m, n, 2): the point of each way nearest to the object
    touched: NDArray[np.int64] = (np.abs(wrong[:, None] - nearest).max(-1) < 36).sum(0)
    return touched


def _launch(game: vizdoom.DoomGame, folder: Path, config: Config) -> None:
    """Write the scenario into a folder and start the engine on it, without window, sound and overlays."""
    (folder / "scenario.wad").write_bytes(
        _wad({"DECORATE": _actors(config), "MAP01": "", "TEXTMAP": _room(), "ENDMAP": ""})
    )
    game.set_doom_scenario_path(str(folder / "scenario.wad"))
    game.set_doom_config_path(str(folder / "engine.ini"))
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))
    game.set_doom_map("MAP01")
    game.set_seed(0)  # the engine's own random numbers don't matter
    game.set_episode_timeout(0)
    game.set_window_visible(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_hud(False)
    game.set_render_weapon(False)
    game.set_render_crosshair(False)
    game.set_objects_info_enabled(True)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA, vizdoom.Button.MOVE_FORWARD])
    variables = (vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y, vizdoom.GameVariable.ANGLE)
    game.set_available_game_variables(list(variables))
    game.add_game_args("+movebob 0")
    game.init()


def _stop(game: vizdoom.DoomGame, folder: Path, left: Path) -> None:
    game.close()
    rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # the engine makes this folder in the working folder; it stays if not empty
        left.rmdir()


def _wad(lumps: dict[str, str]) -> bytes:
    """Pack named texts into a PWAD: a header, the texts, and a directory of (offset, size, name)."""
    data, directory = b"", b""
    for name, text in lumps.items():
        directory += struct.pack("<ii8s", 12 + len(data), len(text), name.encode())
        data += text.encode()
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(data)) + data + directory


def _room() -> str:
    """Return the map, a square room, in the Universal Doom Map Format."""
    corners = [(-_HALF, -_HALF), (-_HALF, _HALF), (_HALF, _HALF), (_HALF, -_HALF)]
    walls = ["STONE2", "BRICK7", "STONE2", "BRICK7"]
    lines = ['namespace = "zdoom";']
    lines += [f"vertex {{ x = {x}; y = {y}; }}" for x, y in corners]
    lines += [f"linedef {{ v1 = {i}; v2 = {(i + 1) % 4}; sidefront = {i}; blocking = true; }}" for i in range(4)]
    lines += [f'sidedef {{ sector = 0; texturemiddle = "{wall}"; }}' for wall in walls]
    surfaces = 'texturefloor = "FLAT1"; textureceiling = "CEIL1_1";'
    lines += [f"sector {{ heightfloor = 0; heightceiling = 128; lightlevel = 200; {surfaces} }}"]
    skills = " ".join(f"skill{i} = true;" for i in range(1, 6))
    lines += [f"thing {{ type = 1; x = 0; y = {_START}; angle = 90; single = true; {skills} }}"]
    return "\n".join(lines)


def _actors(config: Config) -> str:
    """Return the actors in the DECORATE language.

    The engine's command `summon` puts an actor in front of the player. Therefore a seed actor is summoned, which puts
    the thing itself at the place given by its two arguments, and vanishes.
    """
    tics = (config.memory_steps - 1) * config.frame_skip + 1 + _SETTLE
    mixes = zip(COLOURS, ("2,0,0", "0,2,0"), strict=True)
    things = [_THINGS.format(colour=colour, mix=mix, tics=tics) for colour, mix in mixes]
    seeds = [_SEED.format(thing=colour + kind) for colour in COLOURS for kind in ("object", "pillar")]
    return "".join(things + seeds)


_THINGS = """
actor {colour}object : CustomInventory {{
    Radius 12 Scale 2 Translation "0:255=%[0,0,0]:[{mix}]"
    +INVENTORY.ALWAYSPICKUP +INVENTORY.NOSCREENFLASH
    states {{
        Spawn:
            BON1 A -1 bright
            stop
        Pickup:
            TNT1 A 0
            stop
    }}
}}
actor {colour}pillar {{
    Radius 24 Height 128 XScale 2.5 YScale 2 Translation "0:255=%[0,0,0]:[{mix}]"
    states {{
        Spawn:
            COL1 A {tics} bright
            stop
    }}
}}
"""
_SEED = """
actor {thing}seed {{
    +NOBLOCKMAP +NOGRAVITY
    states {{
        Spawn:
            TNT1 A 0
            TNT1 A 0 A_SpawnItemEx("{thing}", args[0]-x, args[1]-y, -z, 0,0,0,0, SXF_ABSOLUTEPOSITION)
            stop
    }}
}}
"""

make = TwoColors
