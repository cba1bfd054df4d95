"""Recording: the steps of a rollout, cut into trajectories.

A lane is one environment of a vector environment. The steps of an episode stay in memory until it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from rmt_rl.acting.rollout import Step
from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.trees import bytes_of, map_leaves

LANES = 64  # at most; the episodes depend on the number of lanes, since every lane draws its own random numbers
STEP_BYTES = 1 << 18  # at most; observations of one step, of all lanes together


def recorded_lanes(observation_space: gymnasium.Space[Any]) -> int:
    """Return how many lanes to record at once: fewer for large observations."""
    fitting = STEP_BYTES // max(1, bytes_of(observation_space))
    return max(1, min(LANES, fitting))


def trajectories(steps: Iterable[Step], lanes: int) -> Iterator[Trajectory]:
    """Cut a rollout into episodes, in the order in which they end; hold the steps of open episodes only."""
    open_steps: list[list[_LaneStep]] = [[] for _ in range(lanes)]
    for step in steps:
        for lane in np.flatnonzero(step.counted).tolist():
            open_steps[lane].append(_lane_step(step, lane))
        for lane in np.flatnonzero(step.ends).tolist():
            last_observation = _row(step.next_observations, lane)
            yield _trajectory(open_steps[lane], last_observation)
            open_steps[lane] = []


class _LaneStep(NamedTuple):
    """One step of one lane, copied out of the step of all lanes."""

    observation: Arrays
    action: Arrays
    reward: float
    terminated: bool
    truncated: bool


def _lane_step(step: Step, lane: int) -> _LaneStep:
    return _LaneStep(
        observation=_row(step.observations, lane),
        action=_row(step.actions, lane),
        reward=float(step.rewards[lane]),
        terminated=bool(step.terminations[lane]),
        truncated=bool(step.truncations[lane]),
    )


def _row(batch: Arrays, lane: int) -> Arrays:
    def copied(leaf: Array) -> Array:
        return np.array(leaf[lane])

    row: Arrays = map_leaves(copied, batch)
    return row


def _trajectory(steps: Sequence[_LaneStep], last_observation: Arrays) -> Trajectory:
    observations, actions, rewards, terminations, truncations = zip(*steps, strict=True)
    return Trajectory(
        observations=_stacked([*observations, last_observation]),
        actions=_stacked(actions),
        rewards=np.array(rewards),
        terminations=np.array(terminations),
        truncations=np.array(truncations),
    )


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
