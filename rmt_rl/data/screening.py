"""Episodes that nothing can be learnt from, such as empty ones: they are left out, and their number is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from rmt_rl.errors import UsageError

FAULTS = (UsageError, ValueError, KeyError, TypeError)
"""Errors that are raised when one episode is odd; OSError, for one, is about the whole file."""

Odd = dict[int, str]
"""The fault of each odd episode, by the episode's number in its data set."""


def report(dataset_id: str, episodes: int, odd: Mapping[int, str], strict: bool) -> None:
    """Warn of the episodes of a data set that are left out.

    Args:
        dataset_id: the data set.
        episodes: number of all its episodes.
        odd: the fault of each odd episode, by its number.
        strict: refuse a data set with odd episodes.

    Raises:
        UsageError: no episode is left, or one is odd and the run is strict.
    """
    if not odd:
        return
    first = min(odd)
    fault, _, _ = odd[first].partition("; ")  # without advice
    example = f"episode {first}: {fault}"
    if len(odd) == episodes:
        raise UsageError(
            f"data set {dataset_id!r}: none of its {episodes} episodes can be learnt from; {example}; collect or "
            "download it again"
        )
    if strict:
        raise UsageError(
            f"data set {dataset_id!r}: {len(odd)} of {episodes} episodes can't be learnt from, and strict=True refuses "
            f"that; {example}; mend the data, or leave --strict out"
        )
    verb = "is" if len(odd) == 1 else "are"
    warnings.warn(
        f"data set {dataset_id!r}: {len(odd)} of {episodes} episodes {verb} left out; {example}",
        UserWarning,
        stacklevel=2,
    )
