"""The scores that data sets give to normalise returns by, as Minari does: 0 for random actions, 1 for the expert."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import minari

from rmt_rl.data.store import data_root


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
        if not (data_root() / identity).exists():
            continue
        metadata = minari.load_dataset(identity).storage.metadata
        found = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        if None not in found and found[0] != found[1]:
            return References(*map(float, found))
    return None
