"""Players without memory: the experts, bereft of what must be remembered; none carries anything from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.registry import load_task
from rmt_rl.task import Policy


class Linear:
    """Pushes right where a weighted sum of the observation is above zero, or with a probability that it decides.

    Args:
        weights: (n,) of the observation's numbers.
        steepness: of the logistic function that makes a probability of the sum; infinite: a threshold.
        seed: of the draws.
    """

    def __init__(self, weights: NDArray[np.float64], steepness: float, seed: int = 0) -> None:
        self.weights, self.steepness = weights, steepness
        self._random = np.random.default_rng(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Choose an action for each lane."""
        push = np.clip(np.nan_to_num(self.steepness * (observation @ self.weights)), -50, 50)
        return (self._random.random(len(push)) < 1 / (1 + np.exp(-push))).astype(np.int64), None


def search_linear(policies: int = 4000, games: int = 25) -> Policy:
    """The best of many random linear policies of hidden CartPole, half of them thresholds."""
    task, random = load_task("cartpole_hidden"), np.random.default_rng(0)
    best: tuple[float, Policy] = (-np.inf, Linear(np.zeros(2), 1.0))
    for number in range(policies):
        steepness = 1e9 if number % 2 else float(np.exp(random.uniform(0, 6)))
        policy = Linear(random.normal(size=2), steepness)
        best = max(best, (evaluate(policy, task, {}, games, seed=number).mean_return, policy), key=lambda one: one[0])
    return best[1]


def guesses_the_turn() -> Policy:
    """MiniGrid's expert, which goes to the hall's end and there turns by a coin."""
    task: Any = load_task("minigrid_memory")

    class Guessing(task.Expert):  # type: ignore[misc]  # a class of a module found by name
        def _plan(self, world: Any) -> Any:
            plan = super()._plan(world)
            plan[-2] = int(self._random.integers(2))
            return plan

    return Guessing(task.Config())


def blind_to_colours() -> Policy:
    """ViZDoom's expert, to whom all objects are of the pillar's colour."""
    task: Any = load_task("vizdoom_two_colors")

    class Blind(task.Expert):  # type: ignore[misc]
        def action(self, now: Any) -> int:
            seen = now._replace(right=np.vstack([now.right, now.wrong]), wrong=now.wrong[:0])
            return int(super().action(seen))

    return Blind(task.Config())


def wanders(seed: int = 0) -> Policy:
    """Memory Maze's expert where nothing stands between it and the ball, wherever it looks; else a walk at random.

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
            if ahead >= 0.8 and random.random() > 0.15:
                return int(task.FORWARD)
            if ahead >= 0.8:
                return int(task.FORWARD_LEFT if random.random() < left / (left + right + 1e-9) else task.FORWARD_RIGHT)
            return int(task.LEFT if left > right else task.RIGHT)

        def _room(self, now: Any, turn: float) -> float:
            """Cells (up to 4) that are free in a direction from where it looks."""
            way = np.array([np.cos(now.heading + turn), np.sin(now.heading + turn)])
            lengths = np.arange(0.2, 4, 0.2)
            clear = [task._is_clear(now.free, now.position, now.position + length * way) for length in lengths]
            return float(lengths[clear.index(False) - 1]) if False in clear and clear.index(False) else 4.0 * all(clear)

    return Wandering(task.Config())
