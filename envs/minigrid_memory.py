"""MiniGrid Memory: 5-69 steps (size 41); recall, at a hall's end, an object seen 2-38 steps before in the first room.

World and rules are those of MiniGrid's `MemoryEnv` (Chevalier-Boisvert et al., 2023, arXiv:2306.13831), at any odd
size. RATE (Cherepanov et al., 2023, arXiv:2306.09459) trains on one size and tests on others. Seen from above:

                      +-----------------+
                      |               k |     c: the cue, a key or a ball
    +-------+         |               s |     s: the episode ends with success, next to an object like the cue
    | c     +---------+                 |     f: it ends with failure; k (key) and b (ball) may be swapped
    |                   hall          j |     j: the hall's end, where the agent must know the cue
    |       +---------+                 |     The agent starts in the room or the hall and faces the hall's end,
    +-------+         |               f |     so it seldom sees the cue at once.
                      |               b |
                      +-----------------+

Unlike MiniGrid's own, the observation lacks the mission's text, the step limit suits rollouts, and steps are faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import VectorEnv
from minigrid.core.actions import Actions
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.envs.memory import MemoryEnv
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._checks import check_drawable, check_no_options, check_render_mode, check_running
from rmt_rl.envs._plans import Plan
from rmt_rl.envs._privileged import simulators
from rmt_rl.errors import UsageError

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/MiniGridMemory-v0"
HINDSIGHT_CLASSES = 2
"""Number of objects at which an episode can end: 0 is a key, 1 a ball."""

LEFT, RIGHT, FORWARD = int(Actions.left), int(Actions.right), int(Actions.forward)

_VIEW = 7  # side of the agent's view in cells; the agent stands mid last row, at [3, 6], and looks to row 0
_REACH = _VIEW - 1  # cells that the agent sees ahead
_BAND = 2 * _REACH + 3  # rows that can come into view: the agent keeps to the three middle rows
_AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (dx, dy) by direction: right, down, left, up
_CORNER = ((0, -3), (-3, 0), (-6, -3), (-3, -6))  # by direction: offset from the agent to the least x and y in view
_EMPTY, _WALL = (OBJECT_TO_IDX["empty"], 0, 0), (OBJECT_TO_IDX["wall"], COLOR_TO_IDX["grey"], 0)
_OBJECTS = (OBJECT_TO_IDX["key"], OBJECT_TO_IDX["ball"])

_TILE, _COLUMNS = 16, 41  # of a picture: pixels per cell, most columns shown

Pose = tuple[int, int, int]
"""x, y and direction of the agent."""


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("an odd number is needed, since the hall runs through the middle")
    return size


class Config(Frozen):
    """Options of MiniGrid Memory. The defaults are RATE's training size with halls of random length."""

    size: Annotated[int, Field(ge=7, le=2001), AfterValidator(_odd)] = Field(
        41, description="cells per side of the world, an odd number in 7..2001"
    )
    random_length: bool = Field(
        True, description="draw each episode's hall length among those that fit; otherwise the longest"
    )
    max_steps: int | None = Field(
        None, ge=1, description="steps after which an episode is truncated, >= 1; none: 3 size (MiniGrid: 5 size^2)"
    )

    @property
    def limit(self) -> int:
        """Most steps of an episode. The default is 1.5 times the way from the far end to the cue and back."""
        return 3 * self.size if self.max_steps is None else self.max_steps


class MiniGridMemory(MemoryEnv):
    """MiniGrid's `MemoryEnv` with a purely numeric observation.

    Observations: "image", uint8 (7, 7, 3): object, colour and state of each cell that the agent sees, numbered as in
    MiniGrid and indexed [column, row]. The agent stands at [3, 6] and looks towards row 0. "direction", int64: 0 right,
    1 down, 2 left, 3 up.

    Actions: MiniGrid's seven. 0 turns left, 1 turns right, 2 goes forward. The others do nothing here.

    Rewards: 1 - 0.9 steps / limit at the object like the cue, else 0.

    An episode terminates beside either object at the hall's end, and is truncated after `Config.limit` steps. The last
    info holds `is_success`, True if the object is like the cue.

    Args:
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self.config = config = validated(Config, options)
        check_render_mode(render_mode)
        super().__init__(config.size, config.random_length, config.limit, render_mode=render_mode)
        counts = [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)]
        image = spaces.MultiDiscrete(np.tile(counts, (_VIEW, _VIEW, 1)), np.uint8)
        self.observation_space = spaces.Dict({"direction": spaces.Discrete(4), "image": image})
        self._running = False

    @property
    def pose(self) -> Pose:
        """Position and direction of the agent."""
        return int(self.agent_pos[0]), int(self.agent_pos[1]), int(self.agent_dir)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seed of the random stream. None continues it.
            options: Must be empty.

        Returns:
            The first observation and an empty info.

        Raises:
            UsageError: `options` isn't empty.
        """
        check_no_options(options)
        self._running = True
        first: tuple[dict[str, Any], dict[str, Any]] = super().reset(seed=seed)
        return first

    def step(  # type: ignore[override]
        self, action: Any
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            UsageError: the action is not in 0..6.
            ResetNeeded: `reset` was never called, or the episode has ended.
        """
        check_running(self._running)
        if not self.action_space.contains(action):
            raise UsageError(f"action={action!r}: must be an integer in 0..6")
        observation, reward, terminated, truncated, _ = super().step(int(action))  # type: ignore[no-untyped-call]
        self._running = not (terminated or truncated)
        info = {} if self._running else {"is_success": float(reward) > 0}
        return observation, float(reward), terminated, truncated, info

    def gen_obs(self) -> dict[str, Any]:
        """Return what the agent sees. The image equals that of MiniGrid's own method, which is slow."""
        pose = self.pose
        return {"direction": np.int64(pose[2]), "image": self.view(pose).copy()}

    def view(self, pose: Pose) -> NDArray[np.uint8]:
        """Return the image that an agent in this pose would see, read-only."""
        x, y, direction = pose
        column, row = x + _CORNER[direction][0] + _REACH, y + _CORNER[direction][1] - self._top
        return _look(self._band[column : column + _VIEW, row : row + _VIEW].tobytes(), direction)

    def sees_cue(self, pose: Pose) -> bool:
        """Return whether an agent in this pose would see the cue, which lies at x = 1 in the row above the hall."""
        dx, dy = 1 - pose[0], self.size // 2 - 1 - pose[1]
        x, y = _AHEAD[pose[2]]
        ahead, right = x * dx + y * dy, x * dy - y * dx
        if not (0 <= ahead <= _REACH and abs(right) <= _VIEW // 2):
            return False
        return bool(self.view(pose)[_VIEW // 2 + right, _REACH - ahead, 0] != OBJECT_TO_IDX["unseen"])

    def render(self) -> NDArray[np.uint8]:
        """Draw the 15 rows around the hall. Of a large world, draw only the 41 columns around the agent.

        Returns:
            uint8 (height, width, 3), 16 pixels per cell. The cells that the agent sees are lighter.

        Raises:
            UsageError: the environment was made without `render_mode="rgb_array"`.
            ResetNeeded: `reset` was never called.
        """
        check_drawable(self.render_mode)
        if self.agent_pos is None:
            raise ResetNeeded("nothing to draw yet: call reset() before render()")
        x, y, direction = self.pose
        columns, rows = min(self.size, _COLUMNS), min(self.size, _BAND)
        left, top = min(max(x - columns // 2, 0), self.size - columns), (self.size - rows) // 2
        column, row = x + _CORNER[direction][0] - left + _REACH, y + _CORNER[direction][1] - top + _REACH
        seen = self.view(self.pose)[..., 0] != OBJECT_TO_IDX["unseen"]
        lit = np.zeros((columns + 2 * _REACH, rows + 2 * _REACH), bool)  # the view may reach beyond the picture
        lit[column : column + _VIEW, row : row + _VIEW] = np.rot90(seen, direction + 1)
        lit = lit[_REACH:-_REACH, _REACH:-_REACH]
        return self.grid.slice(left, top, columns, rows).render(_TILE, (x - left, y - top), direction, lit)

    def _gen_grid(self, width: int, height: int) -> None:
        """Let MiniGrid build the world, then store the band of rows that can come into view as an array.

        Nothing in the world moves during an episode, and no way leads out of the band's three middle rows.
        """
        super()._gen_grid(width, height)  # type: ignore[no-untyped-call]
        self._top = height // 2 - _BAND // 2  # y of the band's first row
        self._band = np.full((width + 2 * _REACH, _BAND, 3), _WALL, np.uint8)  # beyond the world MiniGrid shows walls
        for y in range(max(self._top, 0), min(self._top + _BAND, height)):
            row = self._band[_REACH:-_REACH, y - self._top]
            row[:] = _EMPTY
            for x, cell in enumerate(self.grid.grid[y * width : (y + 1) * width]):
                if cell is not None:
                    row[x] = cell.encode()


@lru_cache(maxsize=2**14)
def _look(window: bytes, direction: int) -> NDArray[np.uint8]:
    """Return what an agent sees of the 49 cells before it, by MiniGrid's own rules. Results are cached.

    Args:
        window: Bytes of uint8 (7, 7, 3), the encoded cells, indexed [x, y].
        direction: Direction of the agent.

    Returns:
        The observed image, read-only.
    """
    grid, _ = Grid.decode(np.frombuffer(window, np.uint8).reshape(_VIEW, _VIEW, 3))
    for _ in range(direction + 1):
        grid = grid.rotate_left()
    stand = _VIEW // 2, _REACH
    visible = grid.process_vis(stand)
    grid.set(*stand, None)
    image: NDArray[np.uint8] = grid.encode(visible)
    image.flags.writeable = False
    return image


class Expert:
    """Policy that goes where the cue comes into view, then to the hall's end, then to the object like the cue.

    The expert takes shortest ways. It reads the simulator, but its actions follow from what the agent has seen. It
    draws between two equally short ways, independently of the cue, so that its way to the hall's end doesn't reveal the
    cue.

    Args:
        config: Options of the environment to play.
        seed: Seed of these draws.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        # Spawned, because an environment with the same seed draws the cue from the numbers of `default_rng(seed)`.
        self._random = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self._worlds: Sequence[MiniGridMemory] = ()

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Set the vector environment whose simulators the expert reads.

        Raises:
            UsageError: its environments are not `MiniGridMemory` environments in this process.
        """
        self._worlds = simulators(env, MiniGridMemory)

    def predict(
        self,
        observation: dict[str, NDArray[Any]],
        state: list[Plan] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], list[Plan]]:
        """Choose an action for each of n environments.

        Args:
            observation: Unused, since the expert reads the simulators' state.
            state: The actions planned for each environment. None plans all anew.
            episode_start: (n,), True where the observation is an episode's first. The actions are planned anew there.
            deterministic: Unused: the expert always draws between equally short ways.

        Returns:
            Actions (n,) and the next state. The action is forward where the planned episode is over.

        Raises:
            UsageError: `attach` was not called.
        """
        if not self._worlds:
            raise UsageError(f"the expert of {ID} reads the simulators' state: call attach(env) before env.reset()")
        lanes = len(self._worlds)
        starts = np.zeros(lanes, bool) if episode_start is None else episode_start
        if state is None:
            state, starts = [Plan() for _ in range(lanes)], np.ones(lanes, bool)
        for world, plan, start in zip(self._worlds, state, starts, strict=True):
            if start:
                plan.stage = 0
            if start or plan.left:
                self._renew(plan, world)
        return np.array([plan.next(FORWARD) for plan in state], np.int64), state

    def replace_actions(self, state: list[Plan], actions: Any, replaced: NDArray[np.bool_]) -> list[Plan]:
        """Plan anew where another action than the planned one is done; see `rmt_rl.task.Informed`."""
        for plan, is_left in zip(state, replaced, strict=True):
            plan.left = bool(is_left)
        return state

    def _renew(self, plan: Plan, world: MiniGridMemory) -> None:
        """Plan the way from where the agent stands, through the stages that are still due."""
        x, y = world.success_pos
        stages: list[Callable[[Pose], bool]] = [
            world.sees_cue,
            lambda pose: pose[:2] == (x, world.size // 2),
            lambda pose: pose[:2] == (x, y),
        ]
        pose = world.pose
        plan.steps.clear()
        plan.left = False
        for stage in range(plan.stage, len(stages)):
            favoured = LEFT if self._random.integers(2) else RIGHT
            actions, pose = _shortest_way(world, pose, stages[stage], favoured)
            plan.steps.extend((stage, action) for action in actions)


def _shortest_way(
    world: MiniGridMemory, start: Pose, reached: Callable[[Pose], bool], favoured: int
) -> tuple[list[int], Pose]:
    """Return the fewest actions from `start` to a pose that fulfils `reached`, by breadth-first search.

    Args:
        world: Environment that holds the walls.
        start: Pose at which the way begins.
        reached: Returns whether a pose is a goal.
        favoured: `LEFT` or `RIGHT`, the turn to take where both are equally good.

    Returns:
        The actions and the pose to which they lead.
    """
    queue = [start]
    steps: dict[Pose, tuple[Pose, int] | None] = {start: None}  # by pose: the pose before it and the action between
    for pose in queue:  # the loop appends to the queue
        if reached(pose):
            break
        for action in (favoured, LEFT + RIGHT - favoured, FORWARD):
            after = _after(world, pose, action)
            if after not in steps:
                steps[after] = pose, action
                queue.append(after)
    actions, end = [], pose
    while (step := steps[pose]) is not None:
        pose, action = step
        actions.append(action)
    return actions[::-1], end


def _after(world: MiniGridMemory, pose: Pose, action: int) -> Pose:
    x, y, direction = pose
    if action != FORWARD:
        return x, y, (direction + (1 if action == RIGHT else -1)) % 4
    dx, dy = _AHEAD[direction]
    return pose if world.grid.get(x + dx, y + dy) is not None else (x + dx, y + dy, direction)


def hindsight(trajectory: Trajectory) -> NDArray[np.int64]:
    """Return for every step the object at which the trajectory ends, int64 (T,): 0 a key, 1 a ball, -1 neither.

    The object is the one in front of the agent in the last observation, whether like the cue or not.
    """
    assert isinstance(trajectory.observations, dict)
    images = trajectory.observations["image"]
    assert isinstance(images, np.ndarray)
    ahead = images[-1, _VIEW // 2, _REACH - 1, 0]
    found = trajectory.terminations[-1] and ahead in _OBJECTS
    return np.full(len(trajectory), _OBJECTS.index(ahead) if found else -1, np.int64)


def decisive(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps that choose an object: the turns before the step that ends at it."""
    chosen = np.zeros(len(trajectory), bool)
    if trajectory.terminations[-1]:
        others = np.flatnonzero(~np.isin(np.asarray(trajectory.actions)[:-1], (LEFT, RIGHT)))
        chosen[others[-1] + 1 if len(others) else 0 : -1] = True
    return chosen


def idle(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps that show neither key nor ball."""
    assert isinstance(trajectory.observations, dict)
    images = trajectory.observations["image"]
    assert isinstance(images, np.ndarray)
    return np.array([not np.isin(image[..., 0], _OBJECTS).any() for image in images[:-1]])


make = MiniGridMemory
