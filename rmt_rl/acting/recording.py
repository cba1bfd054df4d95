"""Recording: the steps of a rollout, cut into trajectories.

A lane is one environment of a vector environment. The steps of an episode stay in memory until it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from rmt_rl.acting.rollout import Step
from rmt_rl.data.trajectory import Arrays, Trajectory
from rmt_rl.trees import bytes_of, map_leaves

LANES = 64  # at most; the episodes depend on the number of lanes, since every lane draws its own random numbers
STEP_BYTES = 1 << 18  # at most; observations of one step, of all lanes together


def recorded_lanes(observation_space: gymnasium.Space[Any]) -> int:
    """Return how many lanes to record at once: fewer for large observations."""
    fitting = STEP_BYTES // max(1, bytes_of(observation_space))
    return max(1, min(LANES, fitting))


class EpisodeOfLane:
    """The steps of an open episode, copied."""

    def __init__(self) -> None:
        self.observations: list[Arrays] = []
        self.actions: list[Arrays] = []
        self.rewards: list[float] = []
        self.terminations: list[bool] = []
        self.truncations: list[bool] = []

    def begin_step(self, observation: Arrays, action: Arrays) -> None:
        """Add an observation and the action that follows it."""
        self.observations.append(map_leaves(np.array, observation))
        self.actions.append(map_leaves(np.array, action))

    def end_step(self, reward: float, terminated: bool, truncated: bool) -> None:
        """Add the outcome of this action."""
        self.rewards.append(reward)
        self.terminations.append(terminated)
        self.truncations.append(truncated)

    def trajectory(self, last_observation: Arrays) -> Trajectory:
        """Return the episode, which has ended with an observation."""
        return Trajectory(
            observations=_stacked([*self.observations, map_leaves(np.array, last_observation)]),
            actions=_stacked(self.actions),
            rewards=np.array(self.rewards),
            terminations=np.array(self.terminations),
            truncations=np.array(self.truncations),
        )


def trajectories(steps: Iterable[Step], lanes: int) -> Iterator[Trajectory]:
    """Cut a rollout into episodes, in the order in which they end; hold the steps of open episodes only."""
    episodes = [EpisodeOfLane() for _ in range(lanes)]
    for step in steps:
        for lane in np.flatnonzero(step.counted).tolist():
            _add(episodes[lane], step, lane)
        for lane in np.flatnonzero(step.ends).tolist():
            last_observation = _row(step.next_observations, lane)
            yield episodes[lane].trajectory(last_observation)
            episodes[lane] = EpisodeOfLane()


def _add(episode: EpisodeOfLane, step: Step, lane: int) -> None:
    """Add a step of one lane."""
    episode.begin_step(_row(step.observations, lane), _row(step.actions, lane))
    episode.end_step(float(step.rewards[lane]), bool(step.terminations[lane]), bool(step.truncations[lane]))


def _row(batch: Arrays, lane: int) -> Arrays:
    row: Arrays = map_leaves(lambda leaf: leaf[lane], batch)
    return row


def _stacked(values: Sequence[Any]) -> Arrays:
    """Stack T values of a space, trees of arrays (...), to one tree of arrays (T, ...)."""
    first = values[0]
    if isinstance(first, dict):
        stacked = {}
        for key in first:
            parts = [value[key] for value in values]
            stacked[key] = _stacked(parts)
        return stacked
    if isinstance(first, tuple):
        return tuple(map(_stacked, zip(*values, strict=True)))
    return np.stack(values)
