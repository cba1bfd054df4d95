"""ViZDoom-Two-Colors: the pillar's time, health and rewards, the expert, and that the colour must be recalled."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from rmt_rl.errors import UsageError

pytest.importorskip("vizdoom")

from rmt_rl.envs.vizdoom_two_colors import FORWARD, LEFT, RIGHT, Config, Expert, Situation, TwoColors


def sees_right(now: Situation) -> Situation:
    return now


def sees_swapped(now: Situation) -> Situation:
    return now._replace(right=now.wrong, wrong=now.right)


def sees_no_colour(now: Situation) -> Situation:
    return now._replace(right=np.vstack([now.right, now.wrong]), wrong=now.wrong[:0])


@pytest.fixture
def env() -> Iterator[TwoColors]:
    env = TwoColors(frame_skip=4)
    yield env
    env.close()


def episode(sees: Callable[[Situation], Situation], seed: int, **options: Any) -> tuple[float, int, bool]:
    """Return return, length and whether the player died, of the expert with its view of the objects changed."""
    env = TwoColors(**options)
    expert = Expert(env.config)
    env.reset(seed=seed)
    total, length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(np.int64(expert.action(sees(env.situation()))))
        assert info == {}
        total += reward
        length += 1
    env.close()
    return total, length, terminated


def coloured(observation: NDArray[np.uint8], colour: str) -> int:
    """Return how many pixels above the horizon, where the pillar is seen but no object, are of a colour."""
    red, green = (observation[:29, :, channel].astype(int) for channel in (0, 1))
    return int(((red - green) * (1 if colour == "red" else -1) > 60).sum())


@pytest.mark.parametrize(("frame_skip", "memory_steps"), [(1, 1), (1, 12), (4, 1), (4, 45), (7, 3)])
@pytest.mark.parametrize("colour", ["red", "green"])
def test_the_pillar_stands_for_memory_steps(frame_skip: int, memory_steps: int, colour: str) -> None:
    env = TwoColors(frame_skip=frame_skip, memory_steps=memory_steps, colour=colour, health_drain=0)
    observation, _ = env.reset(seed=3)
    turns = [LEFT, RIGHT] * (memory_steps + 2)  # never far from the pillar
    seen = []
    for turn in turns[: memory_steps + 3]:
        seen.append(coloured(observation, colour) > 40)
        observation = env.step(np.int64(turn))[0]
    env.close()
    assert seen == [True] * memory_steps + [False] * 3


def test_colours_are_drawn_and_can_be_fixed(env: TwoColors) -> None:
    drawn = []
    for seed in range(12):
        observation, _ = env.reset(seed=seed)
        red, green = coloured(observation, "red"), coloured(observation, "green")
        drawn.append(red > green)
        assert max(red, green) > 40
    assert 2 <= sum(drawn) <= 10


def test_objects_appear_apart_and_are_replaced_when_picked_up() -> None:
    env = TwoColors(objects=12, health_drain=0)
    expert = Expert(env.config)
    env.reset(seed=0)
    replaced = 0
    for _ in range(120):
        before = env.situation()
        _, reward, *_ = env.step(np.int64(expert.action(before)))
        now = env.situation()
        lost = 12 - len(now.right)
        assert reward == pytest.approx(lost + env.config.living_reward)
        replaced += lost
        assert np.abs(np.vstack([now.right, now.wrong])).max() <= 280
    env.close()
    assert replaced >= 8


def test_health_drains_and_decides_over_life_and_death() -> None:
    total, length, died = episode(sees_right, 0, health_drain=10, health_change=0)
    assert (length, died) == (10, True)
    assert total >= 9 * 0.02
    assert episode(sees_right, 0, max_steps=7)[1:] == (7, False)
    swapped = [episode(sees_swapped, seed) for seed in range(3)]
    assert all(died and length < 80 for _, length, died in swapped)


def test_only_the_pillars_colour_is_rewarded() -> None:
    swapped = episode(sees_swapped, 1, health_change=0, health_drain=0, max_steps=100, living_reward=0)[0]
    right = episode(sees_right, 1, health_change=0, health_drain=0, max_steps=100, living_reward=0)[0]
    assert swapped <= 1 < 6 <= right


def test_the_expert_lives_on_and_without_the_colour_it_would_not() -> None:
    with_colour = [episode(sees_right, seed) for seed in range(2)]
    assert all(not died and total > 90 for total, _, died in with_colour)
    without = [episode(sees_no_colour, seed) for seed in range(6)]
    assert all(died and length < 700 for _, length, died in without)
    assert np.mean([total for total, *_ in without]) < 30


@pytest.mark.parametrize("colour", ["red", "green"])
def test_the_privileged_expert_plays_all_lanes(colour: str) -> None:
    options: dict[str, Any] = {"colour": colour, "max_steps": 40}
    env = SyncVectorEnv([lambda: TwoColors(**options)] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    expert = Expert(Config(**options))
    expert.attach(env)
    observations, _ = env.reset(seed=0)
    state, total = None, np.zeros(3)
    for _ in range(100):  # over the ends of two episodes
        actions, state = expert.predict(observations, state)
        assert actions.shape == (3,)
        assert env.action_space.contains(actions)
        observations, rewards, *_ = env.step(actions)
        total += rewards
    env.close()
    assert (total > 4).all()


def test_an_expert_without_simulators_says_so() -> None:
    with pytest.raises(UsageError, match="attach"):
        Expert(Config()).predict(np.zeros((1, 60, 80, 3), np.uint8))


DIGEST = """
import hashlib, numpy as np
from rmt_rl.envs.vizdoom_two_colors import TwoColors
env, rng, digest = TwoColors(), np.random.default_rng(0), hashlib.sha256()
env.reset(seed=5)
for _ in range(60):
    observation, reward, *_ = env.step(rng.integers(2, 5))
    digest.update(observation.tobytes() + repr(float(reward)).encode())
print(digest.hexdigest())
"""


def test_a_seed_fixes_the_episode_in_any_process_and_after_any_other(env: TwoColors) -> None:
    digests = []
    for _ in range(2):  # the second time after a whole other episode's steps
        rng, digest = np.random.default_rng(0), hashlib.sha256()
        env.reset(seed=5)
        for _ in range(60):
            observation, reward, *_ = env.step(rng.integers(2, 5))
            digest.update(observation.tobytes() + repr(float(reward)).encode())
        digests.append(digest.hexdigest())
    elsewhere = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert digests == [elsewhere] * 2
    first = env.reset(seed=6)[0]
    assert not np.array_equal(first, env.reset()[0])


def test_the_picture_shows_health(env: TwoColors) -> None:
    env.reset(seed=0)
    full = env.render()
    assert full.shape == (384, 480, 3)
    for _ in range(20):
        env.step(np.int64(LEFT))
    less = env.render()
    bar = [(picture[370] != picture[370, -1]).any(-1).sum() for picture in (full, less)]
    assert (full[370, 5] == less[370, 5]).all()
    assert bar[1] == pytest.approx(0.8 * 480, abs=1)


@pytest.mark.parametrize(
    "options", [{"colour": "blue"}, {"memory_steps": 0}, {"frame_skip": 0}, {"render_mode": "human"}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        TwoColors(**options)


def test_misuse(env: TwoColors) -> None:
    with pytest.raises(ResetNeeded):
        env.step(np.int64(FORWARD))
    with pytest.raises(ResetNeeded):
        env.render()
    with pytest.raises(UsageError, match="options"):
        env.reset(options={"colour": "red"})
    env.reset(seed=0)
    with pytest.raises(UsageError, match="7"):
        env.step(np.int64(7))
    env.close()
    env.close()
    env.reset(seed=0)  # starts the engine again


def test_gymnasium_knows_it() -> None:
    made = gymnasium.make("rmt_rl/ViZDoomTwoColors-v0", colour="green", max_steps=3)
    assert isinstance(made.unwrapped, TwoColors)
    made.reset(seed=0)
    made.close()
