"""Extremes of the returns of episodes, which a data set of ours notes in its metadata."""

from __future__ import annotations

from dataclasses import dataclass

import minari
import numpy as np

from rmt_rl.data.storage import was_changed
from rmt_rl.data.trajectory import Array, Trajectory

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


def noted_returns(dataset: minari.MinariDataset) -> ReturnSummary | None:
    """Return the extremes in the metadata of a data set of ours; None if it was changed since, or is another's."""
    noted = dataset.storage.metadata.get(RETURNS_KEY)
    if not noted or noted["episodes"] != len(dataset) or was_changed(dataset.storage):
        return None
    return ReturnSummary(noted["episodes"], noted["largest"], noted["best"])


def sum_from(rewards: Array, step: int) -> float:
    """Return the sum of the rewards from a step on, added from the last to the first as in `returns_to_go`."""
    from_the_end = rewards[: step - 1 : -1]
    sums = np.append(0.0, from_the_end).cumsum()
    return float(sums[-1])
