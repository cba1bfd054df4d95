"""Players without memory: the experts without what must be remembered; none carries anything from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.registry import load_task
from rmt_rl.task import Policy

ROOM, STRIDE = 4, 0.2  # cells that the wandering player looks ahead, and between two points that it looks at
FREE = 0.8  # cells of room ahead with which it can go straight on
UNFORCED = 0.15  # probability of a turn without need


class Linear:
    """Pushes right where a weighted sum of the observation is above zero, or with a probability that it decides.

    Args:
        weights: (n,) of the observation's numbers.
        steepness: of the logistic function that makes a probability of the sum; infinite: a threshold.
        seed: of the draws.
    """

    def __init__(self, weights: NDArray[np.float64], steepness: float, seed: int = 0) -> None:
        self.weights = weights
        self.steepness = steepness
        self._random = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose an action for each environment."""
        push = self.steepness * (observation @ self.weights)
        push = np.clip(np.nan_to_num(push), -50, 50)
        probability = 1 / (1 + np.exp(-push))
        right = self._random.random(len(push)) < probability
        return right.astype(np.int64), None


def search_linear(policies: int = 4000, games: int = 25) -> Policy:
    """Return the best of many random linear policies of hidden CartPole, half of them thresholds."""
    task = load_task("cartpole_hidden")
    random = np.random.default_rng(0)
    best: Policy = Linear(np.zeros(2), 1.0)
    best_return = -np.inf
    for number in range(policies):
        steepness = 1e9 if number % 2 else float(np.exp(random.uniform(0, 6)))
        policy = Linear(random.normal(size=2), steepness)
        found = evaluate(policy, task, {}, games, seed=number)
        if found.mean_return > best_return:
            best, best_return = policy, found.mean_return
    return best


def guesses_the_turn() -> Policy:
    """Return MiniGrid's expert, which goes to the hall's end and there turns by a coin."""
    task: Any = load_task("minigrid_memory")

    class Guessing(task.Expert):  # type: ignore[misc]  # a class of a module found by name
        def _plan(self, world: Any) -> Any:
            plan = super()._plan(world)
            plan[-2] = int(self._random.integers(2))
            return plan

    return Guessing(task.Config())


def blind_to_colours() -> Policy:
    """Return ViZDoom's expert, to whom all objects are of the pillar's colour."""
    task: Any = load_task("vizdoom_two_colors")

    class Blind(task.Expert):  # type: ignore[misc]
        def action(self, now: Any) -> int:
            every = np.vstack([now.right, now.wrong])
            none = now.wrong[:0]
            return int(super().action(now._replace(right=every, wrong=none)))

    return Blind(task.Config())


def wanders(seed: int = 0) -> Policy:
    """Return Memory Maze's expert where nothing stands between it and the ball, wherever it looks; else a random walk.

    The walk goes straight on where the next cell is free, else turns to where there is more room; now and then, at
    random, it turns without need, so that it comes round.
    """
    task: Any = load_task("memory_maze")
    random = np.random.default_rng(seed)

    class Wandering(task.Expert):  # type: ignore[misc]
        def action(self, now: Any) -> int:
            if task._is_clear(now.free, now.position, now.target):
                return int(super().action(now))
            ahead, left, right = (self._room(now, turn) for turn in (0, np.pi / 4, -np.pi / 4))
            if ahead < FREE:
                return int(task.LEFT if left > right else task.RIGHT)
            if random.random() > UNFORCED:
                return int(task.FORWARD)
            to_the_left = left / (left + right + 1e-9)
            return int(task.FORWARD_LEFT if random.random() < to_the_left else task.FORWARD_RIGHT)

        def _room(self, now: Any, turn: float) -> float:
            """Return the cells (up to 4) that are free in a direction from the present one."""
            angle = now.heading + turn
            direction = np.array([np.cos(angle), np.sin(angle)])
            room = 0.0
            for length in np.arange(STRIDE, ROOM, STRIDE):
                if not task._is_clear(now.free, now.position, now.position + length * direction):
                    return room
                room = float(length)
            return float(ROOM)

    return Wandering(task.Config())


class Forgets:
    """Another policy, to which every observation is an episode's first."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose an action for each environment."""
        starts = np.ones(len(observation), bool)
        actions, _ = self.policy.predict(observation, None, starts, deterministic)
        return actions, None


def always_turns_left() -> Policy:
    """Return Endless T-Maze's expert, which turns left where it knows no cue."""
    task: Any = load_task("endless_tmaze")
    return Forgets(task.Expert(task.Config()))


def walks_rounds() -> Policy:
    """Return Color-Cubes' expert where the target is in sight; elsewhere it walks rounds of the grid, row by row.

    Rows are walked to and fro without their first cell, and the first column leads back up.
    """
    task: Any = load_task("color_cubes")
    config = task.Config()
    size = config.size
    rounds = np.full((size, size), task.LEFT)
    rounds[::2] = task.RIGHT
    rounds[:-1:2, -1] = rounds[1:-1:2, 1] = task.DOWN
    rounds[-1] = task.LEFT
    rounds[1:, 0] = task.UP
    own = task.Layout.of(config).own

    class Rounds(Forgets):
        def predict(self, observation: Any, *arguments: Any, **named: Any) -> tuple[Any, Any]:
            actions, _ = super().predict(observation, *arguments, **named)
            cells = observation[:, own].argmax(1)
            in_sight = observation[:, :3].all(1)
            return np.where(in_sight, actions, rounds.ravel()[cells]), None

    return Rounds(task.Expert(config))
