"""Extremes of the returns of a data set's episodes, which our data sets hold in their metadata too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import minari
import numpy as np
from pydantic import Field

from rmt_rl.config import SavedState, validated
from rmt_rl.data.trajectory import Array, Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.numbers import FLOAT32_MAX

RETURNS_KEY = "rmt_rl_returns"  # metadata of ours, which spare reading every episode for its rewards


@dataclass
class ReturnSummary:
    """Extremes of the returns of episodes.

    Attributes:
        episodes: number of episodes.
        largest: largest absolute return-to-go of any step.
        best: largest return of an episode.
    """

    episodes: int = 0
    largest: float = 0.0
    best: float = -np.inf

    def add(self, trajectory: Trajectory) -> None:
        """Count a whole episode."""
        returns_to_go = trajectory.returns_to_go
        largest = np.abs(returns_to_go).max()
        whole = returns_to_go[0]
        self.join(ReturnSummary(1, float(largest), float(whole)))

    def join(self, other: ReturnSummary) -> None:
        """Count all episodes of another summary."""
        self.episodes += other.episodes
        self.largest = max(self.largest, other.largest)
        self.best = max(self.best, other.best)


class NotedReturns(SavedState, strict=True):
    """A `ReturnSummary` in the metadata or the index of a data set."""

    episodes: int = Field(ge=0)
    largest: float = Field(ge=0, le=FLOAT32_MAX)
    best: float = Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)

    @property
    def summary(self) -> ReturnSummary:
        """The same numbers as a `ReturnSummary`."""
        return ReturnSummary(self.episodes, self.largest, self.best)


def noted_returns(dataset: minari.MinariDataset) -> ReturnSummary | None:
    """Return the extremes of the returns that a data set's metadata hold; None if they hold none.

    Raises:
        UsageError: a number is out of range.
    """
    noted = dataset.storage.metadata.get(RETURNS_KEY)
    if noted is None:
        return None
    try:
        if not isinstance(noted, Mapping):
            raise UsageError(f"{noted!r} holds no returns")
        checked = validated(NotedReturns, noted)
    except UsageError as error:
        raise UsageError(
            f"{RETURNS_KEY} in its metadata.json: {error}; remove it there, and the returns are read from the episodes"
        ) from None
    return checked.summary


def sum_from(rewards: Array, step: int) -> float:
    """Return the sum of the rewards from a step on, added from the last to the first as in `returns_to_go`."""
    from_the_end = rewards[: step - 1 : -1]
    sums = np.append(0.0, from_the_end).cumsum()
    return float(sums[-1])
