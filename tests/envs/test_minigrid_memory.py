"""MiniGrid Memory: equality with MiniGrid, the expert, what tells the right turn, and what data reveal."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from minari.serialization import deserialize_space, serialize_space
from minigrid.core.world_object import Ball, Key
from minigrid.envs.memory import MemoryEnv
from numpy.typing import NDArray

import rmt_rl  # noqa: F401 - registers the environment
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import rollout
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.envs.minigrid_memory import (
    FORWARD,
    ID,
    LEFT,
    RIGHT,
    Config,
    Expert,
    MiniGridMemory,
    decisive,
    hindsight,
    make,
)
from rmt_rl.errors import UsageError

PICKUP, DROP, TOGGLE, DONE = range(3, 7)
KEY, BALL = 0, 1


class Episode(NamedTuple):
    trajectory: Trajectory
    seen: NDArray[np.bool_]  # (T,) the cue is in view


class Watched(Expert):
    """Notes what its first lane sees."""

    def attach(self, env: Any) -> None:
        super().attach(env)
        self.world = env.envs[0].unwrapped
        self.seen: list[bool] = []

    def predict(self, *args: Any) -> Any:
        self.seen.append(self.world.sees_cue(self.world.pose))
        return super().predict(*args)


class Lookup:
    """Acts as the expert did on the same observation, by a draw; forward where it has never been."""

    def __init__(self, episodes: list[Episode]) -> None:
        self._random = np.random.default_rng(0)
        self._actions: defaultdict[bytes, list[int]] = defaultdict(list)
        for trajectory, _ in episodes:
            for t, action in enumerate(acted(trajectory)):
                self._actions[observed(trajectory, t)].append(action)

    def predict(self, observation: Any, state: Any = None, *_: Any) -> tuple[NDArray[np.int64], None]:
        views = zip(observation["image"], observation["direction"], strict=True)
        keys = [image.tobytes() + bytes([direction]) for image, direction in views]
        return np.array([self._random.choice(self._actions.get(key, [FORWARD])) for key in keys]), None


def lanes(count: int, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: make(**options)] * count, autoreset_mode=AutoresetMode.NEXT_STEP)


@cache
def expert_episodes(count: int, seed: int = 0, **options: Any) -> list[Episode]:
    """Play with one seed for the environment and the expert, whose draws must be independent all the same."""
    expert = Watched(Config(**options), seed)
    steps = list(rollout(expert, lanes(1, **options), count, seed))
    found = list(trajectories(steps, 1))
    seen = np.array([each for each, step in zip(expert.seen, steps, strict=True) if step.counted[0]])
    return list(map(Episode, found, np.split(seen, np.cumsum([len(each) for each in found])[:-1])))


def played(actions: list[int], seed: int = 0, **options: Any) -> tuple[Trajectory, dict[str, Any]]:
    """Return the episode that these actions make, and its last info."""
    env = make(**options)
    observations, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for action in actions:
        observation, reward, *end, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        ends.append(end)
    arrays: Any = {key: np.array([each[key] for each in observations]) for key in observations[0]}
    return Trajectory(arrays, np.array(actions), np.array(rewards), *np.array(ends).T), info


def acted(trajectory: Trajectory) -> NDArray[np.int64]:
    return np.asarray(trajectory.actions)


def part(trajectory: Trajectory, key: str) -> NDArray[Any]:
    assert isinstance(trajectory.observations, dict)
    array = trajectory.observations[key]
    assert isinstance(array, np.ndarray)
    return array


def observed(trajectory: Trajectory, t: int) -> bytes:
    return bytes(part(trajectory, "image")[t].tobytes() + bytes([part(trajectory, "direction")[t]]))


def guessed(clues: list[Any], answers: list[int]) -> float:
    """Return how often the commonest answer to a clue in the first half is right in the second."""
    half = len(clues) // 2
    table: defaultdict[Any, Counter[int]] = defaultdict(Counter)
    for clue, answer in zip(clues[:half], answers[:half], strict=True):
        table[clue][answer] += 1
    asked = zip(clues[half:], answers[half:], strict=True)
    right = [table[clue].most_common(1)[0][0] == answer for clue, answer in asked if clue in table]
    assert len(right) > 0.9 * half
    return float(np.mean(right))


@pytest.mark.parametrize(
    ("size", "random_length"), [(7, True), (9, True), (13, False), (17, True), (41, True), (501, True)]
)
def test_play_is_equal_to_minigrids(size: int, random_length: bool) -> None:
    ours, theirs = make(size=size, random_length=random_length), MemoryEnv(size, random_length, max_steps=3 * size)
    rng, ends = np.random.default_rng(size), 0
    for seed in range(6):
        (got, _), (wanted, _) = ours.reset(seed=seed), theirs.reset(seed=seed)
        over = False
        for _ in range(300):
            np.testing.assert_array_equal(got["image"], wanted["image"])
            assert got["image"].dtype == wanted["image"].dtype == np.uint8
            assert got["direction"] == wanted["direction"]
            assert ours.observation_space.contains(got)
            if over:
                break
            action = rng.choice(7, p=[0.12, 0.12, 0.6, 0.04, 0.04, 0.04, 0.04])
            (got, *said, info), (wanted, *asked, _) = ours.step(action), theirs.step(action)  # type: ignore[no-untyped-call]
            assert said == asked
            over = any(said[1:])
            assert info == ({"is_success": asked[0] > 0} if over else {})
        ends += over
    assert ends > 0 or size == 501


@pytest.mark.parametrize("size", [7, 9, 11, 13, 15, 21])
def test_views_and_sight_of_the_cue_are_right_in_every_pose(size: int) -> None:
    ours, theirs = make(size=size), MemoryEnv(size, random_length=True)
    middle = size // 2
    for seed in range(3):
        ours.reset(seed=seed)
        theirs.reset(seed=seed)
        end = ours.success_pos[0]
        cue = theirs.grid.get(1, middle - 1)
        other = Ball("green") if isinstance(cue, Key) else Key("green")  # type: ignore[no-untyped-call]
        room = [(x, y) for x in (1, 2, 3) for y in (middle - 1, middle, middle + 1) if (x, y) != (1, middle - 1)]
        for x, y in [*room, *((x, middle) for x in range(4, end + 1)), ours.success_pos, ours.failure_pos]:
            for direction in range(4):
                theirs.agent_pos, theirs.agent_dir = (x, y), direction
                views = []
                for thing in (other, cue):
                    theirs.grid.set(1, middle - 1, thing)
                    views.append(theirs.gen_obs()["image"])  # type: ignore[no-untyped-call]
                np.testing.assert_array_equal(ours.view((x, y, direction)), views[1])
                assert ours.sees_cue((x, y, direction)) == (views[0] != views[1]).any()


@pytest.mark.parametrize("random_length", [False, True])
@pytest.mark.parametrize("size", [7, 9, 11, 13, 17, 41, 101])
def test_expert_sees_the_cue_before_it_turns_and_succeeds(size: int, random_length: bool) -> None:
    episodes = expert_episodes(20 if size == 101 else 60, size=size, random_length=random_length)
    for trajectory, seen in episodes:
        turns = np.flatnonzero(decisive(trajectory))
        assert len(turns) == 1
        assert seen[: turns[0]].any()
        assert trajectory.rewards[-1] > 0
        assert len(trajectory) < 2 * size
        assert set(acted(trajectory)) <= {LEFT, RIGHT, FORWARD}
    assert np.mean([seen[0] for _, seen in episodes]) < 0.5  # as a rule it has to go and look
    assert {hindsight(trajectory)[0] for trajectory, _ in episodes} == {KEY, BALL}


def test_expert_goes_the_shortest_way() -> None:
    for trajectory, seen in expert_episodes(60, size=41):
        first = int(np.argmax(seen))
        walked = np.sum(acted(trajectory)[:first] == FORWARD)
        rest = acted(trajectory)[first:]
        assert first <= walked + 2  # it turns around at most once to see the cue
        assert len(rest) - np.sum(rest == FORWARD) <= 3  # and once more, and at the hall's end


def test_nothing_but_the_remembered_cue_tells_the_turn() -> None:
    episodes = expert_episodes(2000, size=13, random_length=False)
    turns = [int(np.flatnonzero(decisive(trajectory))[0]) for trajectory, _ in episodes]
    cues = [int(hindsight(trajectory)[0]) for trajectory, _ in episodes]  # the expert ends at the cue's like
    actions = [int(acted(trajectory)[turn]) for (trajectory, _), turn in zip(episodes, turns, strict=True)]
    now = [observed(trajectory, turn) for (trajectory, _), turn in zip(episodes, turns, strict=True)]
    since, whole = [], []
    for (trajectory, seen), turn in zip(episodes, turns, strict=True):
        last = int(np.flatnonzero(seen)[-1])
        did = acted(trajectory)[last:turn].tobytes()
        since.append((did, *(observed(trajectory, t) for t in range(last + 1, turn + 1))))
        whole.append((observed(trajectory, last), *since[-1]))
    for clues in (now, since):
        for answers in (cues, actions):
            assert 0.45 < guessed(clues, answers) < 0.55
    assert len(set(now)) == 2  # the two arrangements at the hall's end
    assert guessed(whole, cues) == guessed(whole, actions) == 1  # the same question, with the cue among the clues


def test_expert_turns_around_either_way_whatever_the_cue() -> None:
    ways: Counter[Any] = Counter()
    for trajectory, seen in expert_episodes(2000, size=13, random_length=False):
        first = int(np.argmax(seen))
        around = tuple(acted(trajectory)[:2]), tuple(acted(trajectory)[first : first + 2])
        if first >= 2:  # it started in the hall
            ways[hindsight(trajectory)[0], *around] += 1
    assert len(ways) == 8
    assert {turns for _, *both in ways for turns in both} == {(LEFT, LEFT), (RIGHT, RIGHT)}
    assert min(ways.values()) > 0.6 * max(ways.values())


def test_a_memoryless_policy_is_at_chance() -> None:
    options: dict[str, Any] = {"size": 9, "random_length": True}
    lookup = Lookup(expert_episodes(1000, **options))
    wins = [step.rewards[step.ends] > 0 for step in rollout(lookup, lanes(10, **options), 600, seed=7)]
    assert 0.3 < np.concatenate(wins).mean() < 0.55


def test_the_forty_episodes_of_size_13() -> None:
    env, found = make(size=13, random_length=False), set()
    for seed in range(400):
        env.reset(seed=seed)
        found.add((env.pose, env.success_pos, type(env.grid.get(1, 5))))
    assert len(found) == 40


def test_hindsight_and_decisive_steps_are_read_from_the_data() -> None:
    options: dict[str, Any] = {"size": 7, "random_length": False}  # the hall's end is at x = 5
    env = make(**options)
    env.reset(seed=0)
    x, way = env.pose[0], [FORWARD] * (5 - env.pose[0])
    up = KEY if isinstance(env.grid.get(5, 1), Key) else BALL
    right = env.success_pos[1] < env.failure_pos[1]
    for turn, kind, success in ((LEFT, up, right), (RIGHT, 1 - up, not right)):
        trajectory, info = played([*way, turn, FORWARD], **options)
        np.testing.assert_array_equal(hindsight(trajectory), kind)
        np.testing.assert_array_equal(np.flatnonzero(decisive(trajectory)), [5 - x])
        assert info == {"is_success": success}
    trajectory, _ = played([RIGHT, LEFT, *way, DONE, LEFT, LEFT, LEFT, FORWARD], **options)
    np.testing.assert_array_equal(hindsight(trajectory), 1 - up)
    np.testing.assert_array_equal(np.flatnonzero(decisive(trajectory)), np.arange(8 - x, 11 - x))


def test_time_out_in_front_of_the_cue_reveals_nothing() -> None:
    options: dict[str, Any] = {"size": 7, "random_length": False}
    env = make(**options)
    env.reset(seed=0)
    actions = [LEFT, LEFT, *[FORWARD] * (env.pose[0] - 1), RIGHT]
    trajectory, info = played(actions, max_steps=len(actions), **options)
    assert info == {"is_success": False}
    assert trajectory.truncations[-1]
    assert part(trajectory, "image")[-1, 3, 5, 0] in (5, 6)
    np.testing.assert_array_equal(hindsight(trajectory), -1)
    assert not decisive(trajectory).any()


def test_limit_and_reward() -> None:
    assert Config().limit == 123
    assert make(size=9).max_steps == 27
    trajectory, info = played([PICKUP, DROP, TOGGLE, DONE], max_steps=4)
    assert info == {"is_success": False}
    assert trajectory.rewards.tolist() == [0] * 4
    for trajectory, _ in expert_episodes(60, size=41):
        assert trajectory.rewards[:-1].sum() == 0
        assert trajectory.rewards[-1] == pytest.approx(1 - 0.9 * len(trajectory) / 123)


def test_same_seeds_same_episodes() -> None:
    for one, other in zip(expert_episodes(60, size=41), expert_episodes.__wrapped__(60, size=41), strict=True):
        np.testing.assert_array_equal(acted(one.trajectory), acted(other.trajectory))
        np.testing.assert_array_equal(part(one.trajectory, "image"), part(other.trajectory, "image"))
    other_seed = [acted(each.trajectory).tolist() for each in expert_episodes(60, seed=1, size=41)]
    assert other_seed != [acted(each.trajectory).tolist() for each in expert_episodes(60, size=41)]


def test_expert_plays_lanes_that_end_at_different_times() -> None:
    steps = list(rollout(Expert(Config()), lanes(7), 50, seed=0))
    assert sum(step.ends.sum() for step in steps) == 50
    assert all((step.rewards[step.ends] > 0).all() for step in steps)


def test_overwriting_an_observation_changes_nothing() -> None:
    env = make(size=9)
    first, _ = env.reset(seed=0)
    kept = first["image"].copy()
    first["image"][:] = 0
    np.testing.assert_array_equal(env.reset(seed=0)[0]["image"], kept)


def test_spaces() -> None:
    env = make(size=7)
    assert env.observation_space == make(size=501).observation_space
    assert deserialize_space(serialize_space(env.observation_space)) == env.observation_space
    sample = env.observation_space.sample()["image"]
    assert sample.dtype == np.uint8
    assert sample.shape == (7, 7, 3)
    assert lanes(2, size=7).observation_space["image"].dtype == np.uint8  # type: ignore[index]


def test_pictures() -> None:
    for size, shape in ((7, (112, 112, 3)), (41, (240, 656, 3)), (501, (240, 656, 3))):
        env = make(render_mode="rgb_array", size=size)
        with pytest.raises(ResetNeeded):
            env.render()
        env.reset(seed=1)
        before = env.render()
        env.step(LEFT)
        after = env.render()
        assert before.shape == after.shape == shape
        assert before.dtype == np.uint8
        assert (before != after).any()
    np.testing.assert_array_equal(env.render(), after)
    with pytest.raises(UsageError, match="render_mode"):
        make().render()


def test_small_picture_is_minigrids() -> None:
    env = make(render_mode="rgb_array", size=13)
    theirs = MemoryEnv(13, random_length=True, tile_size=16, render_mode="rgb_array")
    env.reset(seed=1)
    theirs.reset(seed=1)
    for action in (LEFT, LEFT, FORWARD, FORWARD, RIGHT):
        env.step(action)
        theirs.step(action)  # type: ignore[no-untyped-call]
        np.testing.assert_array_equal(env.render(), theirs.render())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 12}, r"size=12: an odd number is needed.*; expected .*odd number in 7\.\.2001"),
        ({"size": 5}, r"size=5: .*greater than or equal to 7"),
        ({"size": 9999}, r"size=9999: .*less than or equal to 2001"),
        ({"max_steps": 0}, r"max_steps=0: "),
        ({"random_lenght": True}, r"unknown option random_lenght=True .*did you mean 'random_length'\?"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


def test_other_misuse() -> None:
    env = make(size=7)
    with pytest.raises(ResetNeeded):
        env.step(LEFT)
    with pytest.raises(UsageError, match="takes no options"):
        env.reset(options={"size": 9})
    env.reset(seed=0)
    for action in (7, -1, 1.0, None):
        with pytest.raises(UsageError, match=r"must be an integer in 0\.\.6"):
            env.step(action)
    for _ in range(21):
        env.step(DONE)
    with pytest.raises(ResetNeeded):
        env.step(DONE)


def test_expert_without_its_environment() -> None:
    with pytest.raises(UsageError, match="call attach"):
        Expert(Config()).predict({})
    for env in (SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")]), AsyncVectorEnv([make])):
        with pytest.raises(UsageError, match="give it a SyncVectorEnv"):
            Expert(Config()).attach(env)
        env.close()


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make(ID, size=501)
    assert isinstance(env.unwrapped, MiniGridMemory)
    assert env.unwrapped.config == Config(size=501)
    env.reset(seed=0)
    env.step(FORWARD)
