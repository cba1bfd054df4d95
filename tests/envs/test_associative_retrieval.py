"""Action Associative Retrieval: its rules, that memory is needed, its vectorisation, and its hindsight."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import rmt_rl  # noqa: F401 - registers the environments
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import rollout
from rmt_rl.envs import associative_retrieval as task
from rmt_rl.envs.associative_retrieval import WAIT, AssociativeRetrieval, AssociativeRetrievalVector, Config, Expert
from rmt_rl.errors import UsageError

STATE, FLAG, NOISE = range(3)


class ByState:
    """A policy without memory: an action for each state and flag."""

    def __init__(self, actions: tuple[int, ...]) -> None:
        self.actions = np.reshape(actions, (2, 2))

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        at, flag = observation[:, :2].astype(int).T
        return self.actions[at, flag], None


class Forgetful(Expert):
    """The expert, to whom every step is an episode's first."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        return super().predict(observation, state, np.ones(len(observation), bool), deterministic)


def play(
    env: AssociativeRetrieval, actions: list[int], seed: int = 0
) -> tuple[NDArray[np.float32], list[float], dict[str, Any]]:
    """Return the observations, reset's first, the rewards, and the last info."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for t, action in enumerate(actions, start=1):
        observation, reward, terminated, truncated, info = env.step(np.int64(action))
        observations.append(observation)
        rewards.append(reward)
        assert not truncated
        assert terminated == (t == len(actions))
        assert bool(info) == terminated
    return np.array(observations), rewards, info


def refused(env: AssociativeRetrieval, seed: int) -> int:
    """Return the action that S0 refuses in the episode of a seed."""
    env.reset(seed=seed)
    return 0 if env.step(np.int64(0))[0][STATE] == 0 else 1


def success(policy: Any, options: dict[str, Any], episodes: int = 1000, lanes: int = 100) -> float:
    rate = evaluate(policy, task, options, episodes, seed=0, max_lanes=lanes).success_rate
    assert rate is not None
    return rate


@pytest.mark.parametrize("action", [0, 1])
def test_the_papers_episode(action: int) -> None:
    env = AssociativeRetrieval(episode_length=5, refusals=False)
    observations, rewards, info = play(env, [action, WAIT, WAIT, WAIT, action])
    np.testing.assert_array_equal(observations[:, STATE], [0, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(observations[:, FLAG], [0, 0, 0, 0, 1, 0])
    assert rewards == [0, 0, 0, 0, 1]
    assert info == {"is_success": True}


@pytest.mark.parametrize(
    ("actions", "states"),
    [
        ([0, WAIT, WAIT, 1], [0, 1, 1, 1, 1]),  # the other action
        ([1, WAIT, WAIT, 0], [0, 1, 1, 1, 1]),
        ([0, WAIT, WAIT, WAIT], [0, 1, 1, 1, 1]),  # none
        ([0, WAIT, 0], [0, 1, 1, 0]),  # too early
        ([0, 1], [0, 1, 1]),
        ([WAIT, WAIT, WAIT, WAIT], [0, 0, 0, 0, 0]),  # never left
        ([WAIT, WAIT, WAIT, 0], [0, 0, 0, 0, 1]),
    ],
)
def test_all_else_fails(actions: list[int], states: list[int]) -> None:
    observations, rewards, info = play(AssociativeRetrieval(episode_length=4, refusals=False), actions)
    np.testing.assert_array_equal(observations[:, STATE], states)
    assert rewards == [0] * (len(actions) - 1) + [-1]
    assert info == {"is_success": False}


@pytest.mark.parametrize("seed", range(6))
def test_a_refused_action_leaves_the_agent_where_it_is_and_costs_a_step(seed: int) -> None:
    env = AssociativeRetrieval(episode_length=5)
    no = refused(env, seed)
    observations, _, info = play(env, [no, no, 1 - no, WAIT, 1 - no], seed)
    np.testing.assert_array_equal(observations[:, STATE], [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(observations[:, FLAG], [0, 0, 0, 0, 1, 0])
    assert info == {"is_success": True}
    assert play(env, [no, 1 - no, WAIT, WAIT, no], seed)[2] == {"is_success": False}
    assert play(env, [1 - no, WAIT, WAIT, WAIT, 1 - no], seed)[2] == {"is_success": True}


@pytest.mark.parametrize("refusals", [True, False])
@pytest.mark.parametrize("length", [3, 90, (3, 6), 180])
def test_expert_succeeds(refusals: bool, length: Any) -> None:
    config = Config(episode_length=length, refusals=refusals)
    evaluation = evaluate(Expert(config), task, config.model_dump(), 400, seed=0)
    assert evaluation.success_rate == 1
    assert evaluation.mean_return == 1
    low, high = config.lengths
    assert {episode.length for episode in evaluation.episodes} == set(range(low, high + 1))


def test_expert_in_one_very_long_episode() -> None:
    assert success(Expert(Config()), {"episode_length": 9600}, 4, lanes=4) == 1


def test_memory_is_needed() -> None:
    assert 0.45 < success(Forgetful(Config()), {}, 2000) < 0.55
    rates = [success(ByState(actions), {"episode_length": 4}, 500) for actions in product(range(3), repeat=4)]
    assert 0.45 < max(rates) < 0.55


def test_without_refusals_the_same_action_always_does() -> None:
    assert success(ByState((0, 0, WAIT, 0)), {"refusals": False}) == 1


def test_luck_is_fair() -> None:
    env = AssociativeRetrievalVector(20_000, episode_length=(3, 6))
    expert = Expert(env.config)
    first, _ = env.reset(seed=0)
    tried, state = expert.predict(first)
    second = env.step(tried)[0]
    length, running = np.zeros(env.num_envs), np.ones(env.num_envs, bool)
    observations = second
    while running.any():
        length += running
        actions, state = expert.predict(observations, state)
        observations, _, terminations, *_ = env.step(actions)
        running &= ~terminations
    for drawn, values in [
        (tried, (0, 1)),
        (tried * 2 + second[:, STATE], range(4)),  # either action is refused half of the times
        (first[:, NOISE], (-1, 0, 1)),
        (first[:, NOISE] * 3 + second[:, NOISE], range(-4, 5)),
        (second[:, NOISE] * 2 + second[:, STATE], (-2, -1, 0, 1, 2, 3)),
        (length + 1, (3, 4, 5, 6)),
    ]:
        found, counts = np.unique(drawn, return_counts=True)
        assert tuple(found) == tuple(values)
        expected = env.num_envs / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-squared, at most 8 degrees of freedom: p < 3e-4


@pytest.mark.parametrize(
    "options", [{"episode_length": (3, 9)}, {"episode_length": 3}, {"episode_length": (3, 7), "refusals": False}]
)
def test_vector_env_equals_single_envs(options: dict[str, Any]) -> None:
    lanes = 5
    native = AssociativeRetrievalVector(lanes, **options)
    single = SyncVectorEnv([lambda: AssociativeRetrieval(**options)] * lanes)
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert native.observation_space == single.observation_space
    assert native.action_space == single.action_space
    rng, won = np.random.default_rng(0), 0
    for seed in (7, [3, 1, 4, 1, 5], None):
        np.testing.assert_array_equal(native.reset(seed=seed)[0], single.reset(seed=seed)[0])  # type: ignore[arg-type]
        for _ in range(200):
            actions = rng.choice(3, lanes, p=[0.2, 0.2, 0.6])
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
    few, many = AssociativeRetrievalVector(2), AssociativeRetrievalVector(50)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(few.reset(seed=3)[0], many.reset(seed=3)[0][:2])
    for _ in range(300):
        actions = rng.integers(3, size=50)
        np.testing.assert_array_equal(few.step(actions[:2])[0], many.step(actions)[0][:2])


def test_what_a_step_returned_is_the_callers() -> None:
    one, other = (AssociativeRetrievalVector(3, episode_length=3) for _ in range(2))
    rng = np.random.default_rng(0)
    for env in (one, other):
        env.reset(seed=0)
    for _ in range(30):
        actions = rng.integers(3, size=3)
        *got, infos = one.step(actions)
        for mine, theirs in zip(got, other.step(actions), strict=False):
            np.testing.assert_array_equal(mine, theirs)
        for each in [*got, *infos.values()]:
            each[:] = 0


def test_seeds() -> None:
    env = AssociativeRetrievalVector(64)
    first = env.reset(seed=0)[0]
    assert (env.reset()[0] != first).any()  # goes on, doesn't repeat
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)
    np.testing.assert_array_equal(env.reset(seed=list(range(64)))[0], first)
    fresh = [AssociativeRetrievalVector(64).reset()[0] for _ in range(2)]
    assert (fresh[0] != fresh[1]).any()
    with pytest.raises(UsageError, match=r"seed=\[1, 2\]: .* needs one seed for each of the 64 environments"):
        env.reset(seed=[1, 2])


def test_experts_draws_follow_from_its_seed() -> None:
    observations = np.zeros((200, 3), np.float32)
    one, same, other = (Expert(Config(), seed).predict(observations)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert 60 < one.sum() < 140


def test_expert_predicts_from_dict_observations_and_forgets_at_a_start() -> None:
    expert = Expert(Config())
    outside = np.array([[0, 0, 1]] * 100, np.float32)
    first, state = expert.predict({"observation": outside}, None, np.ones(100, bool))
    second, _ = expert.predict({"observation": outside}, state, np.zeros(100, bool))
    np.testing.assert_array_equal(second, 1 - first)
    inside = np.array([[1, 1, 1]] * 100, np.float32)
    np.testing.assert_array_equal(expert.predict(inside, state, np.zeros(100, bool))[0], first)
    assert (expert.predict(inside, state, np.ones(100, bool))[0] != first).any()


@pytest.mark.parametrize("policy", [Expert, Forgetful])
def test_hindsight_and_decisive_steps(policy: type[Expert]) -> None:
    env = AssociativeRetrievalVector(8, episode_length=(3, 12))
    seen = set()
    for trajectory in trajectories(rollout(policy(env.config), env, 100, seed=0), 8):
        observations, actions = np.asarray(trajectory.observations)[:-1], np.asarray(trajectory.actions)
        classes, decisive = task.hindsight(trajectory), task.decisive(trajectory)
        assert classes.dtype == np.int64
        assert classes.shape == decisive.shape == (len(trajectory),)
        inside = observations[:, STATE] == 1
        assert len(set(classes)) == 1
        assert (classes[0] == -1) == (not inside.any())
        np.testing.assert_array_equal(np.flatnonzero(decisive), [len(trajectory) - 1] if inside[-1] else [])
        if inside[-1]:
            (way,) = set(classes[inside])
            assert (actions[-1] == way) == (trajectory.rewards[-1] == 1)
            seen.add((int(way), float(trajectory.rewards[-1])))
    assert seen == {(way, reward) for way in (0, 1) for reward in ((1.0,) if policy is Expert else (1.0, -1.0))}


def test_hindsight_of_an_episode_that_never_left() -> None:
    env = AssociativeRetrievalVector(1, episode_length=4)
    (trajectory,) = trajectories(rollout(ByState((WAIT,) * 4), env, 1, seed=0), 1)
    np.testing.assert_array_equal(task.hindsight(trajectory), [-1] * 4)
    assert not task.decisive(trajectory).any()


def test_picture() -> None:
    env = AssociativeRetrieval(render_mode="rgb_array", episode_length=4, refusals=False)
    green, blue = np.array([0, 158, 115]), np.array([86, 180, 233])

    def has(colour: NDArray[np.int64]) -> bool:
        return bool((env.render() == colour).all(-1).any())

    env.reset(seed=0)
    assert env.render().dtype == np.uint8
    assert env.render().shape == (96, 176, 3)
    assert not has(green)
    for action in (1, WAIT, WAIT):
        assert not has(blue)
        before = env.render()
        env.step(np.int64(action))
        assert (env.render() != before).any()
        assert has(green)
    assert has(blue)
    with pytest.raises(UsageError, match="render_mode"):
        AssociativeRetrieval().render()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episode_length": 2}, r"episode_length=2: .*greater than or equal to 3.*expected .*a number >= 3"),
        ({"episode_length": (9, 3)}, r"episode_length=\(9, 3\): .*shortest length comes first"),
        ({"refusals": "often"}, r"refusals='often': .*expected"),
        ({"episode_lenght": 9}, r"unknown option episode_lenght=9 \(known: .*did you mean 'episode_length'\?"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    for build in (lambda: AssociativeRetrieval(**options), lambda: AssociativeRetrievalVector(2, **options)):
        with pytest.raises(UsageError, match=message) as caught:
            build()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", [[0, 3], [-1, 0], [0.0, 1.0], [0], [[0], [1]]])
def test_bad_actions(actions: Any) -> None:
    env = AssociativeRetrievalVector(2)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"must be 2 integers in 0\.\.2"):
        env.step(np.array(actions))


def test_other_misuse() -> None:
    with pytest.raises(UsageError, match="num_envs=0"):
        AssociativeRetrievalVector(0)
    with pytest.raises(UsageError, match=r"options=\{'reset_mask'"):
        AssociativeRetrievalVector(2).reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded):
        AssociativeRetrieval().step(np.int64(0))
    with pytest.raises(ResetNeeded):
        AssociativeRetrievalVector(1).step(np.array([0]))
    finished = AssociativeRetrieval(episode_length=3, refusals=False)
    play(finished, [0, WAIT, 0])
    with pytest.raises(ResetNeeded):
        finished.step(np.int64(WAIT))


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make("rmt_rl/AssociativeRetrieval-v0", episode_length=180)
    assert isinstance(env.unwrapped, AssociativeRetrieval)
    assert env.unwrapped.config.episode_length == 180
    lanes = gymnasium.make_vec("rmt_rl/AssociativeRetrieval-v0", 3, episode_length=[3, 5])
    assert isinstance(lanes.unwrapped, AssociativeRetrievalVector)
    assert lanes.unwrapped.config == Config(episode_length=(3, 5))
