"""Memory Maze: the wrapper's contract, seeds, the expert's way through the maze, and its errors.

Simulators take seconds to build: tests share one where they can.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from rmt_rl.errors import UsageError

if find_spec("memory_maze") is None:
    pytest.skip("memory-maze is not installed", allow_module_level=True)
try:
    from rmt_rl.envs import memory_maze
except UsageError as error:  # no renderer here
    pytest.skip(str(error), allow_module_level=True)

from rmt_rl.envs.memory_maze import FORWARD, LEFT, RIGHT, Config, Expert, MemoryMaze, Situation, shortest_way

ROOM = np.array(
    [
        [1, 1, 1, 0],
        [0, 0, 1, 0],
        [1, 1, 1, 1],
        [1, 0, 0, 1],
    ],
    bool,
)  # [y, x], y upwards


@pytest.fixture(scope="module")
def env() -> Iterator[MemoryMaze]:
    """Return an environment in the middle of an episode."""
    env = MemoryMaze(render_mode="rgb_array")
    env.reset(seed=3)
    yield env
    env.close()


def border(observation: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colour of an observation's border, having checked that it goes all round."""
    edges = np.concatenate([observation[0], observation[-1], observation[:, 0], observation[:, -1]])
    assert (edges == edges[0]).all()
    colour: NDArray[np.uint8] = edges[0]
    return colour


def test_the_expert_in_the_simulator_as_published() -> None:
    """The expert reaches ball after ball; a seed and actions fix all that happens, in the unchanged simulator too."""
    env, published = MemoryMaze(max_steps=90), MemoryMaze(max_steps=90)
    first = observation, other = env.reset(seed=5)[0], published.reset(seed=5)[0]
    for ball in published._simulator.task._targets:
        del ball._update_activation  # from the instance: its class has it still
    expert, total, truncated, steps = Expert(env.config), 0.0, False, 0
    while not truncated:
        assert np.array_equal(observation, other)
        asked = border(observation)
        action = np.int64(expert.action(env.situation()))
        observation, reward, terminated, truncated, info = env.step(action)
        other, *same = published.step(action)
        assert same == [reward, terminated, truncated, info]
        assert (info, terminated) == ({}, False)
        assert reward in (0, 1)
        assert (border(observation) != asked).any() == (reward == 1)
        total += reward
        steps += 1
    assert steps == 90
    assert total >= 1
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))
    following = env.reset()[0]
    assert np.array_equal(following, published.reset()[0])  # the next maze follows from the seed as well
    assert not np.array_equal(following, first[0])
    env.close()
    published.close()


def test_observations_are_not_overwritten(env: MemoryMaze) -> None:
    first = env.step(np.int64(LEFT))[0]
    kept = first.copy()
    env.step(np.int64(LEFT))
    assert np.array_equal(first, kept)


def test_turning_and_walking_do_what_the_expert_takes_them_for(env: MemoryMaze) -> None:
    headings = [env.situation().heading]
    for action in [LEFT] * 3 + [RIGHT] * 4:
        env.step(np.int64(action))
        headings.append(env.situation().heading)
    turns = np.diff(np.unwrap(headings))
    assert turns[1:3] == pytest.approx([memory_maze._TURN] * 2, rel=0.05)
    assert turns[-1] == pytest.approx(-memory_maze._TURN, rel=0.05)
    before = env.situation()
    for _ in range(4):
        env.step(np.int64(FORWARD))
    moved = env.situation().position - before.position
    ahead = np.array([np.cos(env.situation().heading), np.sin(env.situation().heading)])
    assert moved @ ahead >= 0.95 * np.linalg.norm(moved)


def test_picture_and_map(env: MemoryMaze) -> None:
    picture, here = env.render(), env.situation()
    assert picture.shape == (384, 768, 3)
    assert picture.dtype == np.uint8
    row, column = 384 - here.position[1] * 384 / 9, 384 + here.position[0] * 384 / 9
    assert tuple(picture[int(row), int(column)]) == memory_maze._AGENT
    assert here.free[int(here.target[1]), int(here.target[0])]


def test_larger_mazes() -> None:
    env = MemoryMaze(size=11, max_steps=3)
    env.reset(seed=3)
    assert env.situation().free.shape == (11, 11)
    assert len(env._seen["targets_pos"]) == 4
    env.close()


def test_the_privileged_expert_in_the_vector_environment() -> None:
    env = SyncVectorEnv([lambda: MemoryMaze(max_steps=4)], autoreset_mode=AutoresetMode.NEXT_STEP)
    expert = Expert(Config(max_steps=4))
    with pytest.raises(UsageError, match="attach"):
        expert.predict(np.zeros((1, 64, 64, 3), np.uint8))
    expert.attach(env)
    observations, _ = env.reset(seed=0)
    state = None
    for _ in range(6):  # over the end of an episode
        actions, state = expert.predict(observations, state)
        assert actions.shape == (1,)
        assert env.action_space.contains(actions)
        observations, *_ = env.step(actions)
    env.close()


def test_shortest_way() -> None:
    around = [(1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2)]
    assert shortest_way(ROOM, (0, 0), (0, 2)) == around
    assert shortest_way(ROOM, (2, 1), (2, 2)) == [(2, 2)]
    assert shortest_way(ROOM, (2, 2), (2, 2)) == [(2, 2)]
    apart = np.array([[1, 0, 1]], bool)
    assert shortest_way(apart, (0, 0), (2, 0)) == [(2, 0)]


def test_the_expert_turns_first_and_walks_straight_where_nothing_is_between() -> None:
    expert = Expert(Config())
    straight = Situation(np.array([0.5, 0.5]), 0.0, np.array([2.5, 0.5]), ROOM)
    assert expert.action(straight) == FORWARD
    assert expert.action(straight._replace(heading=np.pi / 2)) == RIGHT
    assert expert.action(straight._replace(heading=-2.0)) == LEFT
    # The ball behind the wall is due north, the way to it leads east.
    assert expert.action(straight._replace(target=np.array([0.5, 2.5]))) == FORWARD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10}, "size=10"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"max_steps": 1001}, "max_steps=1001.*1000"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MemoryMaze(**options)
    assert MemoryMaze(size=15, max_steps=4000).config.max_steps == 4000


def test_misuse(env: MemoryMaze) -> None:
    fresh = MemoryMaze()
    with pytest.raises(ResetNeeded):
        fresh.step(np.int64(0))
    with pytest.raises(ResetNeeded):
        fresh.render()
    fresh.close()
    with pytest.raises(UsageError, match="9"):
        env.step(np.int64(9))
    with pytest.raises(UsageError, match="options"):
        env.reset(options={"size": 9})


@pytest.mark.parametrize(
    ("backend", "more", "wanted"),
    [("disable", "", "libosmesa6"), ("egl", "99", "MUJOCO_GL=egl")],
)
def test_no_renderer_is_one_clear_error(backend: str, more: str, wanted: str) -> None:
    script = f"""
import os
os.environ |= {{"MUJOCO_GL": {backend!r}, "MUJOCO_EGL_DEVICE_ID": {more!r} or "0"}}
from rmt_rl.errors import UsageError
try:
    import rmt_rl.envs.memory_maze
except UsageError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert wanted in said
    assert len(said.splitlines()) == 1


def test_the_package_can_still_be_imported_in_earnest() -> None:
    script = "import sys, rmt_rl.envs.memory_maze; print('memory_maze' in sys.modules, 'gym' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
