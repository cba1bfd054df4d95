"""POPGym's 48 tasks, adapted, and their experts."""

from __future__ import annotations

import random
import warnings
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("popgym")
pytest.importorskip("mazelib")

import gymnasium
import popgym.envs
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import rmt_rl  # noqa: F401 - registers the environments
from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.envs import popgym as task
from rmt_rl.envs._popgym_experts import Minesweeper
from rmt_rl.errors import UsageError
from rmt_rl.task import Policy

NAMES = get_args(task.Name)
SIZES = ("easy", "medium", "hard")
EVERY = [(name, size) for name in NAMES for size in SIZES]

# Of each task, easy: what the expert's mean return must exceed, and what must exceed that of an expert that forgets.
# In labyrinths view and last action tell all of what the expert needs, in `higher_lower` the card most of it, and
# damping alone keeps a cart-pole up for long.
SCORES: dict[str, tuple[float, float]] = {
    "autoencode": (0.999, -0.2),
    "battleship": (0.5, 0.0),
    "concentration": (0.75, 0.0),
    "count_recall": (0.999, -0.5),
    "higher_lower": (0.42, 0.6),
    "labyrinth_escape": (0.93, 1.0),
    "labyrinth_explore": (0.95, 1.0),
    "minesweeper": (0.4, 0.2),
    "multiarmed_bandit": (0.6, 0.3),
    "noisy_position_only_cartpole": (0.95, 0.6),
    "noisy_position_only_pendulum": (0.85, 0.5),
    "position_only_cartpole": (0.999, 0.6),
    "position_only_pendulum": (0.88, 0.7),
    "repeat_first": (0.999, 0.0),
    "repeat_previous": (0.999, 0.0),
    "velocity_only_cartpole": (0.999, 0.99),
}


class Forgetful:
    """The expert, to which every step is an episode's first."""

    def __init__(self, expert: Policy) -> None:
        self.expert = expert

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        return self.expert.predict(observation, None, np.ones_like(episode_start), deterministic)


def expert(name: str, size: str = "easy") -> task.Expert:
    return task.Expert(task.Config.model_validate({"task": name, "difficulty": size}))


def returns(policy: Policy, name: str, size: str = "easy", episodes: int = 20, seed: int = 0) -> NDArray[np.float64]:
    """Return the returns of episodes played in 10 lanes."""
    env = make_vec_env(task, {"task": name, "difficulty": size}, 10)
    totals = np.zeros(10)
    found: list[float] = []
    for step in rollout(policy, env, episodes, seed):
        totals += step.rewards * step.counted
        found.extend(totals[step.ends])
        totals[step.ends] = 0
    env.close()
    return np.array(found)


def run(env: task.POPGym, seed: int, steps: int = 150) -> list[Any]:
    """Return all that it says in response to random actions."""
    said: list[Any] = [env.reset(seed=seed)]
    env.action_space.seed(seed)
    for _ in range(steps):
        said.append(env.step(env.action_space.sample()))
        if said[-1][2] or said[-1][3]:
            said.append(env.reset())
    return said


def test_there_are_48() -> None:
    games = {type(task.make(task=name, difficulty=size).game) for name, size in EVERY}
    assert games == set(popgym.envs.ALL)
    assert len(games) == 48


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_gymnasium_and_stable_baselines3_accept_it(name: str, size: str) -> None:
    env = gymnasium.make(task.ID, render_mode="rgb_array", task=name, difficulty=size).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
        # Of some spaces it says that agents of its own can't have them as they are.
        warnings.filterwarnings("ignore", message=".*(MultiDiscrete|Tuple|nested|flatten)")
        sb3_check_env(env)


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_a_run_follows_from_its_seed_and_stays_in_its_spaces(name: str, size: str) -> None:
    env = task.make(task=name, difficulty=size)
    said = run(env, 1)
    random.seed(0)
    np.random.seed(0)
    assert data_equivalence(said, run(task.make(task=name, difficulty=size), 1))
    assert not data_equivalence(said, run(env, 2))
    assert all(env.observation_space.contains(each[0]) for each in said)
    assert all(each[-1] == {} for each in said)


def test_global_generators_are_left_alone() -> None:
    env = task.make(task="labyrinth_escape")
    random.seed(3)
    np.random.seed(3)
    drawn = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    env.reset(seed=0)
    assert (random.random(), np.random.random()) == drawn


@pytest.mark.parametrize("name", NAMES)
def test_expert_scores(name: str) -> None:
    wanted, forgetful = SCORES[name]
    assert returns(expert(name), name).mean() > wanted
    assert returns(Forgetful(expert(name)), name).mean() < forgetful


@pytest.mark.parametrize("size", ["medium", "hard"])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("autoencode", 0.999),
        ("battleship", 0.5),
        ("concentration", 0.6),
        ("count_recall", 0.999),
        ("labyrinth_explore", 0.8),
        ("position_only_pendulum", 0.75),
        ("repeat_previous", 0.999),
        ("velocity_only_cartpole", 0.999),
    ],
)
def test_expert_scores_in_larger_sizes(name: str, size: str, wanted: float) -> None:
    assert returns(expert(name, size), name, size, episodes=10).mean() > wanted


@pytest.mark.parametrize("name", NAMES)
def test_expert_knows_no_more_than_the_observations(name: str) -> None:
    env = make_vec_env(task, {"task": name}, 3)
    steps = [(each.observations, each.starts, each.actions) for each in rollout(expert(name), env, 6, seed=0)]
    env.close()
    replayed, state = expert(name), None
    for observations, starts, actions in steps:
        again, state = replayed.predict(observations, state, starts)
        np.testing.assert_array_equal(again, actions)
        assert env.action_space.contains(again)


def test_expert_hears_a_dict_and_needs_no_starts() -> None:
    observations = [np.array([card, 3 - card]) for card in (0, 1, 2, 3)]
    policy, state = expert("repeat_previous"), None
    for cards in observations:
        actions, state = policy.predict({"observation": cards, "return_to_go": np.zeros((2, 1), np.float32)}, state)
    assert actions.tolist() == [0, 3]


def test_what_a_repeater_must_name() -> None:
    """The card of 3 steps ago, where there is one; the first steps don't count."""
    env = task.make(task="repeat_previous")
    cards, rewards = [env.reset(seed=0)[0]], []
    for t in range(51):
        card, reward, terminated, _, _ = env.step(cards[t - 3] if t >= 3 else 0)
        cards.append(card)
        rewards.append(reward)
    assert terminated
    assert rewards == [0] * 3 + [1 / 48] * 48


def test_minesweeper_counts_all_boards() -> None:
    """Probabilities are those of the 120 ways to lay 2 mines in 4 x 4, filtered by what was seen."""
    env = task.make(task="minesweeper")
    compared = 0
    for seed in range(12):
        observation, _ = env.reset(seed=seed)
        player = Minesweeper(env.game)
        seen: dict[tuple[int, int], int] = {}
        ended = False
        while not ended:
            action = player.act(int(observation))
            boards = [
                mines
                for mines in combinations(np.ndindex(4, 4), 2)
                if all(
                    at not in mines and sum(max(abs(at[0] - y), abs(at[1] - x)) == 1 for y, x in mines) == number
                    for at, number in seen.items()
                )
            ]
            risk = {at: np.mean([at in mines for mines in boards]) for at in np.ndindex(4, 4) if at not in seen}
            assert risk[action] == pytest.approx(min(risk.values()))
            observation, _, terminated, truncated, _ = env.step(np.array(action))
            seen[action] = int(observation)
            ended = terminated or truncated
            compared += 1
    assert compared > 80


def test_torque_is_relative_and_returns_are_popgyms() -> None:
    env = task.make(task="position_only_pendulum")
    env.reset(seed=0)
    game = popgym.envs.PositionOnlyPendulumEasy()
    game.reset(seed=int(np.random.default_rng(np.random.SeedSequence(0)).integers(2**31)))
    for torque in (1.0, -0.5, 0.25):
        observation, reward, *_ = env.step(np.array([torque], np.float32))
        wanted, wanted_reward, *_ = game.step(np.array([2 * torque], np.float32))
        np.testing.assert_array_equal(observation, wanted)
        assert reward == wanted_reward


def test_first_observation_of_velocities_is_of_positions() -> None:
    env = task.make(task="velocity_only_cartpole")
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation, np.array(env.game.state)[[0, 2]], rtol=1e-6)
    observation, *_ = env.step(np.int64(1))
    np.testing.assert_allclose(observation, np.array(env.game.state)[[1, 3]], rtol=1e-6)
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space.is_bounded()


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_an_episode_have_one_size(name: str) -> None:
    env = task.make(render_mode="rgb_array", task=name)
    env.reset(seed=0)
    before = env.render()
    env.step(env.action_space.sample())
    after = env.render()
    assert after.dtype == np.uint8
    assert after.shape == before.shape
    assert (after != before).any()


def test_misuse() -> None:
    with pytest.raises(UsageError, match="task='chess'"):
        task.make(task="chess")
    with pytest.raises(UsageError, match="difficulty='brutal'"):
        task.make(difficulty="brutal")
    with pytest.raises(UsageError, match="render_mode='human'"):
        task.make(render_mode="human")
    env = task.make(task="multiarmed_bandit")
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))
    with pytest.raises(UsageError, match="takes no options"):
        env.reset(options={"bandits": 3})
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action=10"):
        env.step(10)
    with pytest.raises(UsageError, match="make the environment with render_mode"):
        env.render()
    for _ in range(200):
        *_, truncated, _ = env.step(np.int64(0))
    assert truncated
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))
