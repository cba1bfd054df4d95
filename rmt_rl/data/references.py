"""Reference scores of data sets, to normalise returns as Minari does: 0 for random actions, 1 for the expert.

If an environment has no expert, the best policy that played in the data takes the expert's place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

from rmt_rl.data.root import has_dataset
from rmt_rl.data.store import open_dataset
from rmt_rl.errors import UsageError


class References(NamedTuple):
    """Mean undiscounted returns of random actions and of the expert."""

    random: float
    expert: float

    def normalised(self, episode_return: float) -> float:
        """Return (return - random) / (expert - random)."""
        return (episode_return - self.random) / (self.expert - self.random)


def read_references(dataset_ids: Iterable[str]) -> References | None:
    """Return the references of the first data set that exists and has both; None if there is no such data set."""
    for dataset_id in dataset_ids:
        if not has_dataset(dataset_id):
            continue
        try:
            metadata = open_dataset(dataset_id).storage.metadata
        except UsageError as error:
            warnings.warn(f"{error}; returns aren't normalised", UserWarning, stacklevel=2)
            continue
        random = metadata.get("ref_min_score")
        expert = metadata.get("ref_max_score")
        if random is not None and expert is not None and random < expert:
            return References(float(random), float(expert))
    return None
