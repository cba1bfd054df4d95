"""Memory Maze: 1,000-4,000 steps; go to one coloured ball after another; recall the maze and balls.

The task is that of Pašukonis, Lillicrap and Hafner (2022, arXiv:2210.13383), from their package `memory-maze`, adapted
to Gymnasium. MuJoCo needs an OpenGL backend that draws without a screen. The environment variable MUJOCO_GL names the
backend. If the variable is not set, Linux uses EGL, or OSMesa if there is only OSMesa.

experiments/ceilings shows what random actions, the expert, and the expert without a memory reach.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from contextlib import suppress
from ctypes.util import find_library
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._checks import check_no_options, check_render_mode, check_running
from rmt_rl.envs._privileged import simulators
from rmt_rl.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

    from gymnasium.vector import VectorEnv

ID = "rmt_rl/MemoryMaze-v0"
EXTRA = "memory-maze"
BEFORE_PYTHON = "3.13"  # labmaze, of which memory-maze makes its mazes, has no release for later ones
EPISODES = 100
LANES = 4  # each environment takes 0.85 GB

IDLE, FORWARD, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(6)

# PyTorch for CUDA imports Triton at some time. Triton's LLVM crashes the process if Mesa has loaded its own before.
_LOADED_FIRST = "triton"
_LONGEST = {9: 1000, 11: 2000, 13: 3000, 15: 4000}  # most steps of an episode, by the maze's size
_TURN = np.deg2rad(18.3)  # radians that the ball turns in one step, once it is turning
_CLEARANCE = 0.15  # least distance of the expert from walls, in cells; the ball's radius is 0.1
_VIEW, _ZOOM = 64, 6  # side of an observation in pixels; enlargement of a picture
_WALL, _FLOOR, _AGENT, _FRAME = (40, 44, 52), (235, 235, 230), (20, 20, 20), (255, 0, 255)


def _import_tasks() -> Any:
    """Import `memory_maze.tasks` without running the package's `__init__`, which requires the old `gym`."""
    if "memory_maze" in sys.modules:
        return import_module("memory_maze.tasks")
    spec = find_spec("memory_maze")
    if spec is None:
        raise ModuleNotFoundError("No module named 'memory_maze'", name="memory_maze")
    sys.modules["memory_maze"] = module_from_spec(spec)  # never run; it only locates the submodules
    try:
        return import_module("memory_maze.tasks")
    finally:
        del sys.modules["memory_maze"]  # so that a later import runs the package's `__init__`


def _require_renderer() -> None:
    """Draw an empty scene to check that dm_control, MuJoCo and OpenGL work together on this machine.

    Raises:
        UsageError: drawing fails; the message names the remedy.
    """
    if sys.platform == "linux" and "dm_control" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") or not find_library("OSMesa") else "osmesa")
    with suppress(ImportError):
        import_module(_LOADED_FIRST)
    backend = os.environ.get("MUJOCO_GL")
    remedy = (
        f"memory_maze can't draw with MUJOCO_GL={backend}: set MUJOCO_GL=egl and install Debian's libegl1, libgl1 and "
        "libgl1-mesa-dri (or a GPU's driver), or set MUJOCO_GL=osmesa and install libosmesa6"
    )
    try:
        physics_class = import_module("dm_control.mujoco").Physics
    except ModuleNotFoundError:
        raise
    except Exception as error:  # its type depends on which library is missing
        raise UsageError(f"{remedy} ({error})") from error
    try:
        physics = physics_class.from_xml_string("<mujoco/>")
    except AttributeError as error:
        wrong = f"dm_control can't read the models of the installed mujoco {version('mujoco')}"
        raise UsageError(f"{wrong}: pip install 'rmt-rl[{EXTRA}]' ({error})") from error
    try:
        physics.render(8, 8)
        physics.free()
    except Exception as error:
        raise UsageError(f"{remedy} ({error})") from error


_require_renderer()
_tasks = _import_tasks()
# Drop a harmless warning of every reset: a rolling ball lacks the free joint that other walkers have.
logging.getLogger("absl").addFilter(lambda record: "no free joint" not in record.getMessage())


class Config(Frozen):
    """Options of the Memory Maze. The defaults are the 9x9 task."""

    size: Literal[9, 11, 13, 15] = Field(9, description="cells per side: 9, 11, 13 or 15, with 3, 4, 5 or 6 balls")
    max_steps: int | None = Field(
        None, ge=1, description="steps of an episode; default and maximum are 1000, 2000, 3000 or 4000, by size"
    )

    @model_validator(mode="after")
    def _not_too_long(self) -> Self:
        if self.max_steps is not None and self.max_steps > _LONGEST[self.size]:
            raise ValueError(f"max_steps={self.max_steps}: must be at most {_LONGEST[self.size]} with size={self.size}")
        return self


class Situation(NamedTuple):
    """State for privileged policies. Lengths are in cells, from the corner between the south and west walls."""

    position: NDArray[np.float64]  # (2,) x and y of the agent
    heading: float  # direction of the agent in radians, counter-clockwise from east
    target: NDArray[np.float64]  # (2,) x and y of the ball to go to
    free: NDArray[np.bool_]  # (size, size), True at [floor(y), floor(x)] where there is no wall


class MemoryMaze(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Maze of rooms and corridors, seen from a rolling ball, with coloured balls that don't move.

    Observations: uint8 (64, 64, 3), RGB. The border has the colour of the ball to go to next.

    Actions: 0 nothing, 1 forward, 2 turn left, 3 turn right, 4 forward and left, 5 forward and right, for 1/4 second.

    Rewards: 1 for touching the ball asked for. Another ball is asked for afterwards.

    Episodes never terminate. They are truncated after `max_steps` steps. Agents are measured by return.

    A reset with a seed builds the simulator anew, which takes about 3 s. A reset without a seed takes half of that.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (_VIEW, _VIEW, 3), np.uint8)
        self.action_space = spaces.Discrete(6)
        self._limit = self.config.max_steps or _LONGEST[self.config.size]
        self._simulator: Any = None
        self._seen: dict[str, NDArray[Any]] = {}  # the simulator's last observations, by name
        self._time = self._limit

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode in a new maze.

        Args:
            seed: Seed of all mazes from now on. None continues their random stream.
            options: Must be empty.

        Returns:
            An observation and an empty info.

        Raises:
            UsageError: `options` isn't empty.
        """
        super().reset(seed=seed)
        check_no_options(options)
        if self._simulator is None or seed is not None:
            self.close()
            self._simulator = _build(self.config.size, int(self.np_random.integers(2**31)))
        self._seen, self._time = self._simulator.reset().observation, 0
        return self._image(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            UsageError: the action is not in 0..5.
            ResetNeeded: `reset` was never called, or the episode has ended.
        """
        check_running(self._time < self._limit)
        if action not in self.action_space:
            raise UsageError(f"action {action!r}: must be an integer in 0..5")
        now = self._simulator.step(int(action))
        self._seen = now.observation
        self._time = self._limit if now.last() else self._time + 1
        return self._image(), float(now.reward), False, self._time >= self._limit, {}

    def render(self) -> NDArray[np.uint8]:
        """Draw the agent's view beside a map, which frames the ball to go to: uint8 (384, 768, 3)."""
        if not self._seen:
            raise ResetNeeded("nothing to draw yet: call reset() before render()")
        return np.hstack([self._image().repeat(_ZOOM, 0).repeat(_ZOOM, 1), self._map(_VIEW * _ZOOM)])

    def close(self) -> None:
        """Free the simulator and its OpenGL context."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator, self._time = None, self._limit

    def situation(self) -> Situation:
        """Return the simulator's state for privileged policies."""
        x, y = self._seen["agent_dir"]
        position, target = self._seen["agent_pos"], self._seen["target_pos"]
        return Situation(position, float(np.arctan2(y, x)), target, self._seen["maze_layout"] == 1)

    def _image(self) -> NDArray[np.uint8]:
        return np.array(self._seen["image"], np.uint8)

    def _map(self, side: int) -> NDArray[np.uint8]:
        here = self.situation()
        row, column = np.indices((side, side)) + 0.5
        x, y = column * self.config.size / side, (side - row) * self.config.size / side
        picture = np.where(here.free[y.astype(int), x.astype(int), None], _FLOOR, _WALL).astype(np.uint8)

        def disc(centre: NDArray[np.float64], radius: float, colour: Any) -> None:
            picture[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour

        disc(here.target, 0.45, _FRAME)
        for ball, colour in zip(self._seen["targets_pos"], _tasks.TARGET_COLORS, strict=False):
            disc(ball, 0.3, np.minimum(colour * 220, 255))
        disc(here.position, 0.2, _AGENT)
        disc(here.position + 0.3 * np.array([np.cos(here.heading), np.sin(here.heading)]), 0.1, _AGENT)
        return picture


def _build(size: int, seed: int) -> Any:
    """Return the package's environment of this size, a `dm_env.Environment`."""
    simulator = getattr(_tasks, f"memory_maze_{size}x{size}")(global_observables=True, seed=seed)
    for ball in simulator.task._targets:
        ball._update_activation = partial(_notice_touch, ball)
    return simulator


def _notice_touch(ball: Any, physics: Any) -> None:
    """Do the same as `TargetSphere._update_activation`, whose loop over contacts takes 3/5 of all time."""
    if not ball.activated and (physics.data.contact.geom == ball._geom_id).any():
        ball._activated = True
        physics.bind(ball.material).rgba[-1] = 0


class Expert:
    """Privileged policy that has the map and always takes the shortest way to the ball asked for.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._envs: list[MemoryMaze] = []

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Set the vector environment whose simulators the expert reads.

        Raises:
            UsageError: its environments are not `MemoryMaze` environments in this process.
        """
        self._envs = simulators(env, MemoryMaze)

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
        """Choose an action for one environment: head for the furthest point of the way that a straight line reaches."""
        way = shortest_way(now.free, _cell(now.position), _cell(now.target))
        goals = [np.array(cell) + 0.5 for cell in way[:-1]] + [now.target]
        goal = next((each for each in reversed(goals) if _is_clear(now.free, now.position, each)), goals[0])
        offset = goal - now.position
        error = (np.arctan2(offset[1], offset[0]) - now.heading + np.pi) % (2 * np.pi) - np.pi
        if abs(error) <= _TURN / 2:
            return FORWARD
        if abs(error) > 4 * _TURN:
            return LEFT if error > 0 else RIGHT
        return FORWARD_LEFT if error > 0 else FORWARD_RIGHT


def shortest_way(free: NDArray[np.bool_], start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the cells (x, y) of a shortest way between two cells, without the start and with the goal last.

    The search is breadth-first, from the goal. Return only the goal if there is no way.
    """
    height, width = free.shape
    onward = {goal: goal}
    queue = deque([goal])
    while queue and start not in onward:
        x, y = queue.popleft()
        for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if 0 <= near[0] < width and 0 <= near[1] < height and free[near[1], near[0]] and near not in onward:
                onward[near] = (x, y)
                queue.append(near)
    way = [onward.get(start, goal)]
    while way[-1] != goal:
        way.append(onward[way[-1]])
    return way


def _cell(position: NDArray[np.float64]) -> tuple[int, int]:
    return int(position[0]), int(position[1])


def _is_clear(free: NDArray[np.bool_], start: NDArray[np.float64], goal: NDArray[np.float64]) -> bool:
    """Return whether a straight way keeps its distance from walls, checked at every tenth of a cell."""
    count = int(np.abs(goal - start).max() * 10) + 2
    points = start + np.linspace(0, 1, count)[1:, None] * (goal - start)  # (n, 2)
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * _CLEARANCE
    columns, rows = np.floor(points[:, None] + corners).astype(int).reshape(-1, 2).T
    height, width = free.shape
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    return bool(inside.all() and free[rows, columns].all())


make = MemoryMaze
