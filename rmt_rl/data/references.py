"""The scores that data sets give to normalise returns by, as Minari does: 0 for random actions, 1 for the expert.

Where an environment has no expert, the best policy that plays in the data takes its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

from rmt_rl.data.store import data_root, open_dataset
from rmt_rl.errors import UsageError


class References(NamedTuple):
    """Mean returns, undiscounted."""

    random: float
    expert: float

    def normalised(self, episode_return: float) -> float:
        """(return - random) / (expert - random)."""
        return (episode_return - self.random) / (self.expert - self.random)


def read_references(dataset_ids: Iterable[str]) -> References | None:
    """Return the references of the first of these data sets that has both and is there; None where none is."""
    for identity in dataset_ids:
        if not (data_root() / identity / "data").exists():
            continue
        try:
            metadata = open_dataset(identity).storage.metadata
        except UsageError as error:
            warnings.warn(f"{error}; returns aren't normalised", UserWarning, stacklevel=2)
            continue
        lowest, highest = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        if lowest is not None and highest is not None and lowest < highest:
            return References(float(lowest), float(highest))
    return None
