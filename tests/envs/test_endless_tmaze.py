"""The Endless T-Maze's rules, its runes, its options, and its vectorisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rmt_rl.envs.endless_tmaze as task
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import rollout
from rmt_rl.envs.endless_tmaze import (
    CANCEL,
    CUE_LEFT,
    CUE_RIGHT,
    FORWARD,
    INVERT,
    LEFT,
    NOTHING,
    REPEAT,
    RESET,
    RIGHT,
    Config,
    EndlessTMaze,
    EndlessTMazeVector,
    Expert,
    updated,
)
from rmt_rl.errors import UsageError

CUE, FLAG, NOISE = range(3)
SIGNS = {"invert": INVERT, "cancel": CANCEL, "reset": RESET, "repeat": REPEAT}
ALL = tuple(SIGNS)
COMPOSITIONS = {("invert",): 2, ("invert", "cancel"): 4, ("invert", "repeat"): 4, ("cancel", "reset"): 8, ALL: 12}
"""The compositions of the module's docstring, and the memory states that they need."""
SIXTEEN = list(product((1, 3, 5, 10), (5, 10, (1, 5), (1, 10))))
"""The paper's configurations: corridors, and their fixed or uniform length."""

VARIANTS: list[dict[str, Any]] = [
    {},
    {"corridors": 2, "corridor_length": 1, "wrong_penalty": -3.0, "delay_penalty": -0.25, "goal_reward": 2.0},
    {"corridors": (2, 9), "corridor_length": (1, 3), "runes": ALL, "ambiguous_position": False},
]


class Forgetful(Expert):
    """The expert, to which every step is an episode's first."""

    def predict(self, observation: Any, *_: Any, **__: Any) -> Any:
        return super().predict(observation, None)


def play(env: EndlessTMaze, actions: Sequence[int], seed: int = 0) -> tuple[NDArray[np.float32], list[float], Any]:
    """Return the observations, reset's first, the rewards, and the last info; the last action ends the episode."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for t, action in enumerate(actions, start=1):
        observation, reward, terminated, truncated, info = env.step(np.int64(action))
        observations.append(observation)
        rewards.append(reward)
        assert (terminated or truncated) == (t == len(actions))
    return np.array(observations), rewards, info


def turn_of(cue: float) -> int:
    return RIGHT if cue > 0 else LEFT


@pytest.mark.parametrize("seed", range(4))
def test_every_corridor_shows_a_cue_once_and_asks_for_it_at_its_end(seed: int) -> None:
    env = EndlessTMaze(corridors=2, corridor_length=3)
    first = turn_of(env.reset(seed=seed)[0][CUE])
    for _ in range(3):
        env.step(np.int64(FORWARD))
    second = turn_of(env.step(np.int64(first))[0][CUE])
    actions = [FORWARD] * 3 + [first] + [FORWARD] * 3 + [second]
    observations, rewards, info = play(env, actions, seed)
    np.testing.assert_array_equal(observations[:, CUE] != 0, [1, 0, 0, 0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(observations[:, FLAG], [0, 0, 0, 1, 0, 0, 0, 1, 0])
    assert rewards == [0, 0, 0, 1, 0, 0, 0, 1]
    assert info == {"is_success": True}
    _, rewards, info = play(env, [*actions[:-1], LEFT + RIGHT - second], seed)
    assert rewards == [0, 0, 0, 1, 0, 0, 0, -1]
    assert info == {"is_success": False}


def test_a_step_without_advance_costs_a_little_until_the_time_is_up() -> None:
    env = EndlessTMaze(corridors=3, corridor_length=2, ambiguous_position=False)
    observations, rewards, info = play(env, [LEFT, FORWARD, RIGHT, FORWARD, FORWARD, FORWARD])
    assert rewards == [-0.01, 0, -0.01, 0, -0.01, -0.01]
    np.testing.assert_array_equal(observations[:, -1], [0, 0, 0.5, 0.5, 1, 1, 1])
    assert not observations[1:, CUE].any()
    assert info == {"is_success": False}


def test_time_begins_anew_in_each_corridor() -> None:
    env = EndlessTMaze(corridors=2, corridor_length=1)
    first = turn_of(env.reset(seed=1)[0][CUE])
    *_, info = play(env, [FORWARD, FORWARD, first, LEFT, LEFT, LEFT, LEFT], seed=1)
    assert info == {"is_success": False}


@pytest.mark.parametrize(("corridors", "length"), SIXTEEN)
def test_expert_is_optimal_in_the_papers_configurations(corridors: int, length: Any) -> None:
    config = Config(corridors=corridors, corridor_length=length)
    evaluation = evaluate(Expert(config), task, config.model_dump(), 100, seed=0)
    assert evaluation.success_rate == 1
    assert {episode.episode_return for episode in evaluation.episodes} == {corridors}
    low, high = config.lengths
    assert all(corridors * (low + 1) <= episode.length <= corridors * (high + 1) for episode in evaluation.episodes)


@pytest.mark.parametrize("options", [{}, *({"runes": runes, "corridors": (1, 9)} for runes in COMPOSITIONS)])
def test_expert_succeeds_in_a_thousand_episodes(options: dict[str, Any]) -> None:
    config = Config(**options)
    assert evaluate(Expert(config), task, config.model_dump(), 1000, seed=0).success_rate == 1


@pytest.mark.parametrize(("corridors", "length"), [(1000, 1), (2, 1000)])
def test_any_number_and_length_of_corridors(corridors: int, length: Any) -> None:
    config = Config(corridors=corridors, corridor_length=length, runes=ALL)
    evaluation = evaluate(Expert(config), task, config.model_dump(), 4, seed=0)
    assert evaluation.success_rate == 1
    assert evaluation.mean_return == corridors


@pytest.mark.parametrize("corridors", [1, 3])
def test_memory_is_needed(corridors: int) -> None:
    options = {"corridors": corridors, "corridor_length": 4}
    evaluation = evaluate(Forgetful(Config()), task, options, 2000, seed=0)
    assert evaluation.success_rate is not None
    assert abs(evaluation.success_rate - 0.5**corridors) < 0.03
    assert abs(evaluation.mean_return) < 0.1
    random = evaluate(RandomPolicy(EndlessTMaze().action_space, 0), task, options, 1000, seed=0)
    assert random.mean_return < 0.1


@pytest.mark.parametrize("runes", COMPOSITIONS)
def test_the_last_cue_is_not_enough_for_runes(runes: Any) -> None:
    """Who follows the newest cue and knows no rune fails, unless by luck."""
    options = {"runes": runes, "corridors": 12, "corridor_length": 1}
    evaluation = evaluate(Expert(Config()), task, options, 400, seed=0)
    assert evaluation.success_rate is not None
    assert evaluation.success_rate < 0.3


def after(history: tuple[int, ...], sign: int) -> tuple[int, ...]:
    (row,) = updated(np.array([history]), np.array([sign]))
    return tuple(row.tolist())


def hidden_cues(*signs: int) -> list[int]:
    """Return the hidden cue after each sign, from an episode's start."""
    history: tuple[int, ...] = (0, 0, 0, 0)
    found = []
    for sign in signs:
        history = after(history, sign)
        found.append(history[0])
    return found


def test_meaning_of_runes() -> None:
    assert hidden_cues(CUE_LEFT, INVERT, INVERT, NOTHING, CUE_RIGHT, INVERT) == [-1, 1, -1, -1, 1, -1]
    assert hidden_cues(CUE_LEFT, CANCEL, CUE_RIGHT, CANCEL, CANCEL) == [-1, -1, 1, -1, 1]
    assert hidden_cues(CUE_LEFT, CUE_RIGHT, RESET, INVERT, RESET) == [-1, 1, -1, 1, -1]
    assert hidden_cues(CUE_LEFT, REPEAT, INVERT, REPEAT, REPEAT, CUE_LEFT, REPEAT) == [-1, -1, 1, -1, 1, -1, -1]
    mixed = [CUE_LEFT, CUE_RIGHT, RESET, CANCEL, REPEAT, INVERT, CANCEL, REPEAT]
    assert hidden_cues(*mixed) == [-1, 1, -1, 1, -1, 1, -1, 1]


@settings(deadline=None, max_examples=50)
@given(st.sampled_from((CUE_LEFT, CUE_RIGHT)), st.lists(st.sampled_from(range(7)), max_size=20))
def test_laws_of_runes(first: int, signs: list[int]) -> None:
    history: tuple[int, ...] = (0, 0, 0, 0)
    for sign in (first, *signs):
        history = after(history, sign)
    hidden = history[0]
    assert hidden in (-1, 1)
    assert after(history, INVERT)[0] == -hidden
    assert after(history, RESET)[0] == (1 if first == CUE_RIGHT else -1)
    for sign in (CUE_LEFT, CUE_RIGHT, INVERT, RESET, REPEAT):
        assert after(after(history, sign), CANCEL)[0] == hidden
    for sign in (CUE_LEFT, CUE_RIGHT, INVERT, CANCEL, RESET):
        assert after(after(history, sign), REPEAT)[0] == after(after(history, sign), sign)[0]


@pytest.mark.parametrize(("runes", "states"), COMPOSITIONS.items())
def test_memory_states_of_compositions(runes: Any, states: int) -> None:
    """Moore's minimisation of the automaton whose states are histories and whose output is the hidden cue."""
    signs = [CUE_LEFT, CUE_RIGHT, *(SIGNS[rune] for rune in runes)]
    reached = [after((0, 0, 0, 0), sign) for sign in signs[:2]]
    following = {}
    for history in reached:  # the loop appends to the list
        following[history] = [after(history, sign) for sign in signs]
        reached.extend(each for each in dict.fromkeys(following[history]) if each not in reached)
    classes: dict[Any, Any] = {history: history[0] for history in reached}
    while True:
        keys = {history: (classes[history], *(classes[each] for each in following[history])) for history in reached}
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
        if len(numbers) == len(set(classes.values())):
            break
        classes = {history: numbers[keys[history]] for history in reached}
    assert len(numbers) == states


def test_runes_are_shown_in_the_place_of_cues() -> None:
    env = EndlessTMazeVector(200, corridors=12, corridor_length=1, runes=("cancel", "repeat"))
    expert = Expert(env.config)
    first, _ = env.reset(seed=0)
    assert first.shape == (200, 7)
    assert (first[:, CUE] != 0).all()
    assert not first[:, 3:].any()
    observations, state, shown = first, None, []
    for _ in range(23):
        actions, state = expert.predict(observations, state)
        observations = env.step(actions)[0]
        begins = (actions != FORWARD) & ~env.ended
        signs = np.column_stack([observations[:, CUE] != 0, observations[:, 3:]])
        assert (signs.sum(1) == begins).all()
        shown.append(signs[begins])
    share = np.concatenate(shown).mean(0)
    np.testing.assert_allclose(share, [0.5, 0, 0.25, 0, 0.25], atol=0.03)


def test_luck_is_fair() -> None:
    env = EndlessTMazeVector(20_000, corridors=(2, 4), corridor_length=(3, 6))
    expert = Expert(env.config)
    first, _ = env.reset(seed=0)
    observations, state, begun = first, None, np.ones(env.num_envs, bool)
    length, cues = np.zeros(env.num_envs), np.zeros(env.num_envs)
    second = np.zeros_like(cues)
    running = np.ones(env.num_envs, bool)
    for _ in range(28):
        actions, state = expert.predict(observations, state)
        observations, rewards, *_ = env.step(actions)
        length += begun
        cues += running & (rewards > 0)
        second = np.where(begun & (rewards > 0), observations[:, CUE], second)
        begun &= rewards == 0
        running &= ~env.ended
    for drawn, values in [
        (first[:, CUE] * 2 + second, (-3, -1, 1, 3)),
        (first[:, CUE] * 3 + first[:, NOISE], (-4, -3, -2, 2, 3, 4)),
        (length, (4, 5, 6, 7)),
        (cues, (2, 3, 4)),
        (first[:, CUE] * 10 + length, (-6, -5, -4, -3, 14, 15, 16, 17)),
    ]:
        found, counts = np.unique(drawn, return_counts=True)
        assert tuple(found) == tuple(values)
        expected = env.num_envs / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-squared, at most 8 degrees of freedom: p < 3e-4


@pytest.mark.parametrize("options", VARIANTS)
def test_vector_env_equals_single_envs(options: dict[str, Any]) -> None:
    lanes = 5
    native, single = EndlessTMazeVector(lanes, **options), SyncVectorEnv([lambda: EndlessTMaze(**options)] * lanes)
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert native.observation_space == single.observation_space
    assert native.action_space == single.action_space
    expert, rng, won = Expert(native.config), np.random.default_rng(0), 0
    for seed in (7, [3, 1, 4, 1, 5], None):
        observations, state = native.reset(seed=seed)[0], None
        np.testing.assert_array_equal(observations, single.reset(seed=seed)[0])  # type: ignore[arg-type]
        starts = np.ones(lanes, bool)
        for _ in range(80):
            best, state = expert.predict(observations, state, starts)
            actions = np.where(rng.random(lanes) < 0.1, rng.integers(3, size=lanes), best)
            starts = native.ended.copy()
            got, wanted = native.step(actions), single.step(actions)
            for one, other in zip(got[:4], wanted[:4], strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
            assert got[4].keys() == wanted[4].keys()
            for key, value in got[4].items():
                np.testing.assert_array_equal(value, wanted[4][key])
            observations = got[0]
            won += got[4].get("is_success", np.zeros(1)).sum()
    assert won > 10


def test_a_lane_does_not_depend_on_its_neighbours() -> None:
    few, many = (EndlessTMazeVector(lanes, runes=ALL, corridor_length=(1, 3)) for lanes in (2, 50))
    np.testing.assert_array_equal(few.reset(seed=3)[0], many.reset(seed=3)[0][:2])
    rng = np.random.default_rng(0)
    for _ in range(300):
        actions = rng.integers(3, size=50)
        np.testing.assert_array_equal(few.step(actions[:2])[0], many.step(actions)[0][:2])


def test_what_a_step_returned_is_the_callers() -> None:
    one, other = (EndlessTMazeVector(3, corridor_length=1, runes=ALL, corridors=9) for _ in range(2))
    expert = Expert(one.config)
    observations, _ = one.reset(seed=0)
    other.reset(seed=0)
    state = None
    for _ in range(30):
        actions, state = expert.predict(observations, state)
        *got, infos = one.step(actions)
        for mine, theirs in zip(got, other.step(actions), strict=False):
            np.testing.assert_array_equal(mine, theirs)
        observations = got[0].copy()
        for each in [*got, *infos.values()]:
            each[:] = 0


def test_seeds() -> None:
    env = EndlessTMazeVector(64)
    first = env.reset(seed=0)[0]
    assert (env.reset()[0] != first).any()  # goes on, doesn't repeat
    np.testing.assert_array_equal(env.reset(seed=list(range(64)))[0], first)


def test_expert_predicts_from_dict_observations_and_forgets_at_a_start() -> None:
    expert = Expert(Config())
    cue = np.array([[1, 0, 0], [-1, 0, 0], [1, 0, 0]], np.float32)
    junction = np.array([[0, 1, 0]] * 3, np.float32)
    actions, state = expert.predict({"observation": cue}, None, np.ones(3, bool))
    np.testing.assert_array_equal(actions, FORWARD)
    actions, _ = expert.predict({"observation": junction}, state, np.array([False, False, True]))
    np.testing.assert_array_equal(actions, [RIGHT, LEFT, LEFT])


@pytest.mark.parametrize("runes", [(), ALL])
@pytest.mark.parametrize("behaviour", ["expert", "random"])
def test_labels_are_told_from_the_data(runes: Any, behaviour: str) -> None:
    env = EndlessTMazeVector(8, runes=runes, corridor_length=(1, 6))
    policy = Expert(env.config) if behaviour == "expert" else RandomPolicy(env.single_action_space, 0)
    found = set()
    for trajectory in trajectories(rollout(policy, env, 60, seed=0), 8):
        observations, actions = np.asarray(trajectory.observations)[:-1], np.asarray(trajectory.actions)
        classes, decisive, idle = task.hindsight(trajectory), task.decisive(trajectory), task.idle(trajectory)
        np.testing.assert_array_equal(decisive, observations[:, FLAG] == 1)
        news = observations[:, CUE] != 0
        news |= observations[:, 3:].any(1)
        np.testing.assert_array_equal(idle, ~news & ~decisive)
        turns = decisive & (actions != FORWARD)
        right = trajectory.rewards[turns] > 0
        np.testing.assert_array_equal(classes[turns] == actions[turns] - 1, right)
        assert (np.diff(classes)[~turns[:-1]] == 0).all()  # the class changes behind a turn only
        last = np.flatnonzero(turns)[-1] if turns.any() else -1
        assert (classes[last + 1 :] == -1).all()
        found |= set(classes.tolist())
    assert found - {-1} == {0, 1}


def test_picture() -> None:
    env = EndlessTMaze(render_mode="rgb_array", corridor_length=900, corridors=1)
    env.reset(seed=0)
    green = np.array([0, 158, 115])
    first = env.render()
    assert first.dtype == np.uint8
    assert first.shape == (80, 43 * 16, 3)
    assert not (first == green).all(-1).any()  # out of sight
    for _ in range(900):
        env.step(np.int64(FORWARD))
    assert (env.render() == green).all(-1).any()
    with pytest.raises(UsageError, match="render_mode"):
        EndlessTMaze().render()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corridors": 0}, r"corridors=0: .*greater than or equal to 1.*expected .*a number >= 1"),
        ({"corridor_length": (9, 3)}, r"corridor_length=\(9, 3\): .*shortest length comes first"),
        ({"corridor_length": "far"}, r"corridor_length='far': .*expected"),
        ({"runes": ("invert", "invert")}, r"runes=.*name each rune once"),
        ({"runes": ("revert",)}, r"revert.*expected"),
        ({"goal_reward": 0}, r"goal_reward=0: "),
        ({"wrong_penalty": 1}, r"wrong_penalty=1: "),
        ({"delay_penalty": float("-inf")}, r"delay_penalty=-inf: .*finite"),
        ({"corridor": 9}, r"unknown option corridor=9 \(known: .*did you mean 'corridors'\?"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    for build in (lambda: EndlessTMaze(**options), lambda: EndlessTMazeVector(2, **options)):
        with pytest.raises(UsageError, match=message) as caught:
            build()
        assert "\n" not in str(caught.value)


def test_misuse() -> None:
    env = EndlessTMazeVector(2)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, int))
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"must be 2 integers in 0\.\.2"):
        env.step(np.array([0, 3]))


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make("rmt_rl/EndlessTMaze-v0", corridors=1000, corridor_length=[1, 1000])
    assert isinstance(env.unwrapped, EndlessTMaze)
    assert env.unwrapped.config.lengths == (1, 1000)
    lanes = gymnasium.make_vec("rmt_rl/EndlessTMaze-v0", 3, runes=["invert"])
    assert isinstance(lanes.unwrapped, EndlessTMazeVector)
    assert lanes.unwrapped.config == Config(runes=("invert",))
