"""Learning histories: a tabular Q-learner plays lives and learns within each, for Algorithm Distillation.

A life is one learning history: the table is empty at its start and is carried from episode to episode. An agent that is
cloned from such lives learns to improve as the learner does (Laskin et al., 2022, arXiv:2210.14215).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rmt_rl.errors import UsageError

RATE, DISCOUNT = 0.5, 0.9
LEAST = 0.05
"""Share of random actions at a history's end."""
EXPLORED = 0.5
"""Share of the episodes in which the share of random actions falls from 1 to `LEAST`, linearly."""


class _Learner:
    """Q-learning in one environment (Watkins, 1989), with epsilon-greedy actions.

    Args:
        actions: number of actions.
        episodes: number of episodes of a life.
    """

    def __init__(self, actions: int, episodes: int) -> None:
        self._actions, self._episodes = actions, episodes
        self._values: defaultdict[bytes, NDArray[np.float64]] = defaultdict(self._no_values)
        self._last: tuple[bytes, int] | None = None
        self._episode = 0

    def act(self, place: bytes, reward: float, starts: bool, generator: np.random.Generator) -> int:
        """Learn from the reward of the last action, and choose the next one.

        Args:
            place: the observation.
            reward: the reward of the last action.
            starts: an episode starts, so the last action ended the one before.
            generator: draws all that is random.
        """
        if self._last is not None:
            following = 0.0 if starts else DISCOUNT * self._values[place].max()
            before, action = self._last
            values = self._values[before]
            values[action] += RATE * (reward + following - values[action])
            self._episode += starts
        chosen = self._chosen(self._values[place], generator)
        self._last = (place, chosen)
        return chosen

    def replace_action(self, action: int) -> None:
        """Learn from this action in place of the chosen one."""
        assert self._last is not None
        place, _ = self._last
        self._last = (place, action)

    def _chosen(self, values: NDArray[np.float64], generator: np.random.Generator) -> int:
        explored = self._episode / (EXPLORED * self._episodes)
        if generator.random() < max(LEAST, 1 - explored):
            return int(generator.integers(self._actions))
        best = np.flatnonzero(values == values.max())
        return int(generator.choice(best))

    def _no_values(self) -> NDArray[np.float64]:
        return np.zeros(self._actions)


class Histories:
    """Plays lives as tabular Q-learners, one for each environment, which start anew with each life.

    Args:
        action_space: the action space of one environment.
        lifetime: number of episodes of a life.
        seed: seed of all draws.

    Raises:
        UsageError: actions aren't discrete, or the episodes aren't lives.
    """

    def __init__(self, action_space: gymnasium.Space[Any], lifetime: int | None, seed: int) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise UsageError(f"policy 'histories' is a table of discrete actions; these are {action_space}")
        if lifetime is None:
            raise UsageError("policy 'histories' learns within lives: give their episodes by --env.lifetime 200")
        self._first, self._actions, self._lifetime = int(action_space.start), int(action_space.n), lifetime
        stream = np.random.SeedSequence(seed).spawn(4)[3]  # apart from those of other policies and the environment
        self._generator = np.random.default_rng(stream)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Choose an action for each of n environments; `observation` is of lives."""
        starts = np.asarray(observation["episode_start"]) == 1
        rewards = np.asarray(observation["previous_reward"])[:, 0]
        learners: list[_Learner] = [self._new() for _ in starts] if state is None else list(state)
        actions = np.zeros(len(starts), np.int64)
        for index in range(len(starts)):
            if episode_start[index]:
                learners[index] = self._new()
            place = _bytes(observation["observation"], index)
            actions[index] = learners[index].act(place, float(rewards[index]), bool(starts[index]), self._generator)
        return actions + self._first, learners

    def replace_actions(self, state: list[_Learner], actions: Any, replaced: NDArray[np.bool_]) -> list[_Learner]:
        """See `Informed`."""
        indices = np.asarray(actions) - self._first
        for index in np.flatnonzero(replaced).tolist():
            state[index].replace_action(int(indices[index]))
        return state

    def _new(self) -> _Learner:
        return _Learner(self._actions, self._lifetime)


def _bytes(observations: Any, index: int) -> bytes:
    """Return the observation of one environment as a key."""
    if isinstance(observations, dict | tuple):
        return b"".join(_bytes(part, index) for part in _parts(observations))
    return np.asarray(observations[index]).tobytes()


def _parts(observations: Any) -> list[Any]:
    return list(observations.values()) if isinstance(observations, dict) else list(observations)
