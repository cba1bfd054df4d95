"""The T-Maze's rules, its options, and its vectorisation."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import rmt_rl  # noqa: F401 - registers the environments
from rmt_rl.envs.tmaze import DOWN, LEFT, RIGHT, UP, Config, Expert, TMaze, TMazeVector
from rmt_rl.errors import UsageError

Y, HINT, FLAG, NOISE, POSITION = range(5)
SIDES = {UP: 1, DOWN: -1}

VARIANTS: list[dict[str, Any]] = [
    {"corridor_length": 1},
    {"corridor_length": (1, 9)},
    {"corridor_length": (3, 6), "oracle_length": 2, "ambiguous_position": False, "penalty": -0.25, "goal_reward": 2.0},
]


def play(env: TMaze, actions: list[int], seed: int = 0) -> tuple[NDArray[np.float32], list[float], dict[str, Any]]:
    """Return the observations, reset's first, the rewards, and the last info."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for t, action in enumerate(actions, start=1):
        observation, reward, terminated, truncated, info = env.step(np.int64(action))
        observations.append(observation)
        rewards.append(reward)
        assert (terminated or truncated) == (t == len(actions))
    return np.array(observations), rewards, info


def episodes(
    options: dict[str, Any], count: int, memory: bool = True
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return success, length and return of `count` expert episodes, one a lane; without memory if so asked."""
    env = TMazeVector(count, **options)
    expert = Expert(env.config)
    observations, _ = env.reset(seed=0)
    state, running = None, np.ones(count, bool)
    success, length, total = np.zeros(count, bool), np.zeros(count, int), np.zeros(count)
    while running.any():
        actions, state = expert.predict(observations, state if memory else None)
        observations, rewards, _, _, infos = env.step(actions)
        length += running
        total += rewards * running
        if infos:
            success |= infos["is_success"] & running
            running &= ~infos["_is_success"]
    return success, length, total


@pytest.mark.parametrize("turn", [UP, DOWN])
@pytest.mark.parametrize("seed", range(4))
def test_passive_episode(turn: int, seed: int) -> None:
    observations, rewards, info = play(TMaze(corridor_length=3), [RIGHT] * 3 + [turn], seed)
    goal = observations[0, HINT]
    assert goal in (-1, 1)
    np.testing.assert_array_equal(observations[:, Y], [0, 0, 0, 0, SIDES[turn]])
    np.testing.assert_array_equal(observations[:, HINT], [goal, 0, 0, 0, 0])
    np.testing.assert_array_equal(observations[:, FLAG], [0, 0, 0, 1, 0])
    won = SIDES[turn] == goal
    assert rewards == [0, 0, 0, float(won)]
    assert info == {"is_success": won}


def test_walls_and_time_limit() -> None:
    observations, rewards, info = play(
        TMaze(corridor_length=4, ambiguous_position=False), [LEFT, UP, DOWN, RIGHT, UP, LEFT]
    )
    np.testing.assert_array_equal(observations[:, POSITION], np.array([0, 0, 0, 0, 1, 1, 0]) / 4)
    assert not observations[:, [Y, FLAG]].any()
    assert rewards == [0] * 6
    assert info == {"is_success": False}


def test_the_junction_ends_the_corridor_and_can_be_left() -> None:
    actions = [RIGHT] * 4 + [LEFT, RIGHT]
    observations, _, info = play(TMaze(corridor_length=2, oracle_length=1), actions)
    np.testing.assert_array_equal(observations[:, FLAG], [0, 0, 1, 1, 1, 0, 1])
    assert info == {"is_success": False}


def test_the_fewest_steps_end_before_the_limit_and_one_is_spare() -> None:
    env = TMaze(corridor_length=3)
    goal = UP if env.reset(seed=5)[0][HINT] > 0 else DOWN
    assert play(env, [RIGHT] * 3 + [goal], seed=5)[2] == {"is_success": True}
    assert play(env, [LEFT] + [RIGHT] * 3 + [goal], seed=5)[2] == {"is_success": True}
    assert play(env, [LEFT] * 2 + [RIGHT] * 3, seed=5)[2] == {"is_success": False}


def test_active_oracle_shows_the_hint_at_its_first_visit_only() -> None:
    actions = [LEFT, LEFT, LEFT, RIGHT, LEFT, RIGHT, RIGHT, RIGHT]
    observations, *_ = play(TMaze(corridor_length=2, oracle_length=2), actions)
    shown = observations[:, HINT] != 0
    np.testing.assert_array_equal(np.flatnonzero(shown), [2])


def test_position_is_the_fraction_of_the_way_from_the_oracle_to_the_junction() -> None:
    env = TMaze(corridor_length=2, oracle_length=2, ambiguous_position=False)
    observations, *_ = play(env, [LEFT, LEFT, RIGHT, RIGHT, RIGHT, RIGHT, UP])
    np.testing.assert_array_equal(observations[:, POSITION], [0.5, 0.25, 0, 0.25, 0.5, 0.75, 1, 1])
    assert env.observation_space == TMaze(corridor_length=9600, ambiguous_position=False).observation_space


def test_penalty_for_each_step_behind_the_fastest() -> None:
    passive = TMaze(corridor_length=3, penalty=-0.5)
    assert play(passive, [LEFT, RIGHT, RIGHT, RIGHT, RIGHT])[1] == [-0.5, -0.5, -0.5, 0, 0]
    active = TMaze(corridor_length=2, oracle_length=1, penalty=-0.5)
    assert play(active, [LEFT, LEFT, RIGHT, RIGHT, RIGHT, LEFT])[1] == [0, -0.5, -0.5, -0.5, 0, 0]


@pytest.mark.parametrize("options", VARIANTS)
def test_expert_is_optimal(options: dict[str, Any]) -> None:
    success, length, total = episodes(options, 200)
    config = Config(**options)
    low, high = (each + 1 + 2 * config.oracle_length for each in config.lengths)
    assert success.all()
    assert set(length) == set(range(low, high + 1))
    np.testing.assert_array_equal(total, config.goal_reward)


def test_luck_is_fair() -> None:
    env = TMazeVector(20_000, corridor_length=(3, 6))
    first, _ = env.reset(seed=0)
    second = env.step(np.zeros(env.num_envs, int))[0]
    for drawn, values in [
        (first[:, HINT], (-1, 1)),
        (first[:, NOISE], (-1, 0, 1)),
        (first[:, NOISE] * 3 + second[:, NOISE], range(-4, 5)),  # pairs: successive noise is independent
        (first[:, HINT] * 3 + first[:, NOISE], (-4, -3, -2, 2, 3, 4)),  # the noise tells nothing of the hint
        (episodes({"corridor_length": (3, 6)}, env.num_envs)[1], (4, 5, 6, 7)),
    ]:
        found, counts = np.unique(drawn, return_counts=True)
        assert tuple(found) == tuple(values)
        expected = env.num_envs / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-squared, at most 8 degrees of freedom: p < 3e-4


@pytest.mark.parametrize("options", VARIANTS)
def test_vector_env_equals_single_envs(options: dict[str, Any]) -> None:
    lanes = 5
    native, single = TMazeVector(lanes, **options), SyncVectorEnv([lambda: TMaze(**options)] * lanes)
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert native.observation_space == single.observation_space
    assert native.action_space == single.action_space
    rng, won = np.random.default_rng(0), 0
    for seed in (7, [3, 1, 4, 1, 5], None):
        np.testing.assert_array_equal(native.reset(seed=seed)[0], single.reset(seed=seed)[0])  # type: ignore[arg-type]
        for _ in range(100):
            actions = rng.choice(4, lanes, p=[0.6, 0.15, 0.1, 0.15])
            got, wanted = native.step(actions), single.step(actions)
            for one, other in zip(got[:4], wanted[:4], strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
            assert got[4].keys() == wanted[4].keys()
            for key, value in got[4].items():
                np.testing.assert_array_equal(value, wanted[4][key])
            won += got[4].get("is_success", np.zeros(1)).sum()
    assert won > 10


def test_a_lane_does_not_depend_on_its_neighbours() -> None:
    few, many = TMazeVector(2), TMazeVector(50)
    np.testing.assert_array_equal(few.reset(seed=3)[0], many.reset(seed=3)[0][:2])
    for t in range(300):
        actions = np.full(50, DOWN if t % 7 == 0 else RIGHT)
        many_actions = actions.copy()
        many_actions[2:] = t % 4
        np.testing.assert_array_equal(few.step(actions[:2])[0], many.step(many_actions)[0][:2])


def test_what_a_step_returned_stays_as_it_was() -> None:
    env = TMazeVector(3, corridor_length=1)
    kept = [env.reset(seed=0)[0]]
    for _ in range(4):
        *arrays, infos = env.step(np.full(3, RIGHT))
        kept += [*arrays, *infos.values()]
    before = [each.copy() for each in kept]
    for _ in range(8):
        env.step(np.full(3, UP))
    for one, other in zip(kept, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_overwriting_what_a_step_returned_changes_nothing() -> None:
    one, other = TMazeVector(3, corridor_length=1), TMazeVector(3, corridor_length=1)
    for env in (one, other):
        env.reset(seed=0)
    for t in range(9):
        actions = np.full(3, t % 2)
        *got, infos = one.step(actions)
        for mine, theirs in zip(got, other.step(actions), strict=False):
            np.testing.assert_array_equal(mine, theirs)
        for each in [*got, *infos.values()]:
            each[:] = 0


def test_seeds() -> None:
    env = TMazeVector(64)
    first = env.reset(seed=0)[0]
    assert (env.reset()[0] != first).any()  # goes on, doesn't repeat
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)
    np.testing.assert_array_equal(env.reset(seed=list(range(64)))[0], first)
    assert (TMazeVector(64).reset()[0] != TMazeVector(64).reset()[0]).any()
    with pytest.raises(UsageError, match=r"seed=\[1, 2\]: .* needs one seed for each of the 64 environments"):
        env.reset(seed=[1, 2])


def test_expert_predicts_from_dict_observations_and_forgets_at_a_start() -> None:
    expert = Expert(Config())
    hint = np.array([[0, 1, 0, 0], [0, -1, 0, 0], [0, -1, 0, 0]], np.float32)
    junction = np.array([[0, 0, 1, 0]] * 3, np.float32)
    actions, state = expert.predict({"observation": hint}, None, np.ones(3, bool))
    np.testing.assert_array_equal(actions, RIGHT)
    actions, _ = expert.predict({"observation": junction}, state, np.array([False, False, True]))
    np.testing.assert_array_equal(actions, [UP, DOWN, UP])


def test_memory_is_needed() -> None:
    assert 0.45 < episodes({}, 2000, memory=False)[0].mean() < 0.55
    assert episodes({"oracle_length": 1, "corridor_length": 2}, 100, memory=False)[0].mean() == 0


def test_picture() -> None:
    env = TMaze(render_mode="rgb_array", corridor_length=900)
    env.reset(seed=0)
    pictures = []
    for _ in range(901):
        pictures.append(env.render())
        env.step(np.int64(RIGHT))
    assert {picture.shape for picture in pictures} == {(80, 43 * 16, 3)}
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert (pictures[0] != pictures[1]).any()
    goal = np.array([0, 158, 115])
    assert not (pictures[0] == goal).all(-1).any()  # out of sight
    assert (pictures[-1] == goal).all(-1).any()
    with pytest.raises(UsageError, match="render_mode"):
        TMaze().render()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corridor_length": 0}, r"corridor_length=0: .*greater than or equal to 1.*expected .*a number >= 1"),
        ({"corridor_length": (9, 3)}, r"corridor_length=\(9, 3\): .*shortest length comes first"),
        ({"corridor_length": "far"}, r"corridor_length='far': .*expected"),
        ({"oracle_length": -1}, r"oracle_length=-1: "),
        ({"penalty": 0.5}, r"penalty=0.5: .*less than or equal to 0"),
        ({"penalty": float("-inf")}, r"penalty=-inf: .*finite"),
        ({"goal_reward": 0}, r"goal_reward=0: "),
        ({"coridor_length": 9}, r"unknown option coridor_length=9 \(known: .*did you mean 'corridor_length'\?"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    for build in (lambda: TMaze(**options), lambda: TMazeVector(2, **options)):
        with pytest.raises(UsageError, match=message) as caught:
            build()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", [[0, 4], [-1, 0], [0.0, 1.0], [0], [[0], [1]]])
def test_bad_actions(actions: Any) -> None:
    env = TMazeVector(2)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"must be 2 integers in 0\.\.3"):
        env.step(np.array(actions))


def test_other_misuse() -> None:
    with pytest.raises(UsageError, match="num_envs=0"):
        TMazeVector(0)
    with pytest.raises(UsageError, match=r"options=\{'reset_mask'"):
        TMazeVector(2).reset(options={"reset_mask": np.array([True, False])})
    for env, action in ((TMaze(), np.int64(0)), (TMazeVector(1), np.array([0]))):
        with pytest.raises(ResetNeeded):
            env.step(action)  # type: ignore[arg-type]
    finished = TMaze(corridor_length=1)
    play(finished, [RIGHT, UP])
    with pytest.raises(ResetNeeded):
        finished.step(np.int64(RIGHT))


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make("rmt_rl/TMaze-v0", corridor_length=900)
    assert isinstance(env.unwrapped, TMaze)
    assert env.unwrapped.config.corridor_length == 900
    lanes = gymnasium.make_vec("rmt_rl/TMaze-v0", 3, corridor_length=[2, 5], penalty=-0.1)
    assert isinstance(lanes.unwrapped, TMazeVector)
    assert lanes.unwrapped.config == Config(corridor_length=(2, 5), penalty=-0.1)


@contextmanager
def counted_instructions() -> Iterator[list[str]]:
    """Yield a list of the functions called meanwhile, one entry for each bytecode instruction that Python executes."""
    executed: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            executed.append(frame.f_code.co_name)
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks only while the tracer is set whether a frame wants this
    sys.settrace(trace)
    try:
        yield executed
    finally:
        sys.settrace(before)


def test_4000_environments_take_as_many_python_instructions_as_two() -> None:
    counts = []
    for num_envs in (2, 4000):
        env = TMazeVector(num_envs, corridor_length=10)
        expert, state, wins = Expert(env.config), None, 0
        observations, _ = env.reset(seed=0)
        with counted_instructions() as executed:
            for _ in range(23):  # two episodes of 11 steps, and the reset between them
                actions, state = expert.predict(observations, state)
                observations, rewards, *_ = env.step(actions)
                wins += int(rewards.sum())
        assert wins == 2 * num_envs
        counts.append(Counter(executed))
    few, many = counts
    assert many == few
    assert many["_advance"] > 1000
