"""Reference scores of data sets, to normalise returns as Minari does: 0 for random actions, 1 for the expert.

If an environment has no expert, the best policy that played in the data takes the expert's place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import Field

from rmt_rl.config import SavedState, validated
from rmt_rl.data.opening import open_dataset
from rmt_rl.data.root import has_dataset
from rmt_rl.errors import UsageError


class References(NamedTuple):
    """Mean undiscounted returns of random actions and of the expert."""

    random: float
    expert: float

    def normalised(self, episode_return: float) -> float:
        """Return (return - random) / (expert - random)."""
        return (episode_return - self.random) / (self.expert - self.random)


class _Scores(SavedState, strict=True):
    """The reference scores in the metadata of a data set."""

    ref_min_score: float | None = Field(None, description="a finite number")
    ref_max_score: float | None = Field(None, description="a finite number")


def read_references(dataset_ids: Iterable[str]) -> References | None:
    """Return the references of the first data set that exists and has both; None if there is no such data set.

    A data set whose references are no numbers is told in a warning and passed over. So is one whose expert is no better
    than random actions, without a warning: scores can't be scaled by it.
    """
    for dataset_id in dataset_ids:
        if not has_dataset(dataset_id):
            continue
        try:
            references = _references(dataset_id, open_dataset(dataset_id).storage.metadata)
        except UsageError as error:
            warnings.warn(f"{error}; returns aren't normalised", UserWarning, stacklevel=2)
            continue
        if references is not None:
            return references
    return None


def _references(dataset_id: str, metadata: Mapping[str, object]) -> References | None:
    """Return the references in the metadata of a data set; None if one is missing or they give no scale.

    Raises:
        UsageError: one is no finite number.
    """
    try:
        scores = validated(_Scores, metadata)
    except UsageError as error:
        raise UsageError(f"data set {dataset_id!r}: {error}") from None
    random = scores.ref_min_score
    expert = scores.ref_max_score
    if random is None or expert is None or random >= expert:
        return None
    return References(random, expert)
