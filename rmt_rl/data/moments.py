"""Means and deviations of observations and actions, from steps spread evenly over a store's episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from rmt_rl.data.segment import Span
from rmt_rl.data.store import EpisodeStore
from rmt_rl.trees import Place, leaves, part_at

EPISODES = 500
"""Episodes to read at most."""
STEPS = 1000
"""Steps to read of an episode at most, in `PIECES`."""
PIECES = 4
"""Pieces, evenly spaced over a long episode."""
BYTES = 1 << 28
"""Data to read at most, if steps are large."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""Smaller deviations count as none: float32 rounds them to 0."""

Floats = NDArray[np.float64]
Wanted = Callable[[Space[Any]], bool]


class Moments:
    """Count, mean and sum of squared deviations of arrays, joined piece by piece (Chan et al., 1983, eq. 2.1)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(shape)
        self.squares: Floats = np.zeros(shape)
        self.largest: Floats = np.zeros(shape)  # absolute values

    def add(self, values: NDArray[Any]) -> None:
        """Count arrays (N, *shape), N at least 1."""
        values = np.asarray(values, np.float64)
        count = len(values)
        mean = values.mean(0)
        between = mean - self.mean
        total = self.count + count
        self.squares += ((values - mean) ** 2).sum(0) + between**2 * (self.count * count / total)
        self.mean += between * (count / total)
        self.count = total
        self.largest = np.maximum(self.largest, np.abs(values).max(0))

    @property
    def deviation(self) -> Floats:
        """The standard deviation; 1 for numbers that don't vary, or by less than float32 can tell."""
        deviation: Floats = np.sqrt(self.squares / max(self.count, 1))
        noise = np.finfo(np.float32).eps * self.largest
        return np.where(deviation > np.maximum(noise, SMALLEST), deviation, 1.0)


class StoreMoments(NamedTuple):
    """The moments of a store's observations and actions, by the places of the leaves."""

    observations: dict[Place, Moments]
    actions: dict[Place, Moments]


def moments(store: EpisodeStore, of_observations: Wanted, of_actions: Wanted) -> StoreMoments:
    """Return the moments of a store's observations and actions, read in one pass.

    Args:
        store: the episodes.
        of_observations: whether to measure a leaf of the observation space.
        of_actions: the same for the action space. Without any leaf to measure nothing is read.
    """
    found = StoreMoments(_empty(store.observation_space, of_observations), _empty(store.action_space, of_actions))
    for trajectory, start, stop in _spread(store) if any(found) else ():
        for values, by_place in zip((trajectory.observations, trajectory.actions), found, strict=True):
            for place, each in by_place.items():
                each.add(part_at(values, place)[start:stop])
    return found


def _empty(space: Space[Any], wanted: Wanted) -> dict[Place, Moments]:
    return {place: Moments(leaf.shape or ()) for place, leaf in leaves(space) if wanted(leaf)}


def _spread(store: EpisodeStore) -> Iterator[Span]:
    """Yield spans spread evenly over the episodes, and over the steps of long ones."""
    count = min(EPISODES, len(store))
    indices = np.linspace(0, len(store) - 1, count).round()
    first = store.span(0, 0, 1).trajectory
    bytes_of_step = first.nbytes / len(first)
    most = min(STEPS, int(BYTES / count / bytes_of_step))
    piece = max(most // PIECES, 1)
    for index in indices.astype(int).tolist():
        length = int(store.lengths[index])
        if length <= max(most, piece):
            yield store.span(index, 0, length)
            continue
        last = length - piece
        for start in np.linspace(0, last, PIECES).astype(int).tolist():
            yield store.span(index, start, start + piece)
