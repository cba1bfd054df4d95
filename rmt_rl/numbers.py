"""The rule for numbers that come in: of observations, actions, rewards and files.

- NaN and infinity are refused.
- A number that float32 can't hold (larger than 3.4e38) is refused, since networks compute in float32.
- A number more than `FACTOR` times as large as the largest bound of its Box (or as 1, if the bounds are smaller) is
  refused. Numbers slightly outside their Box are common in real environments and data sets, and are accepted. Where a
  Box has no bound on a side, every number that float32 can hold is accepted.

The checks look at the extremes of a whole batch first, which takes microseconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rmt_rl.errors import UsageError

Array: TypeAlias = NDArray[Any]

FACTOR = 1000.0
FLOAT32_MAX = float(np.finfo(np.float32).max)
LARGEST_RESULT = 1e100  # of a result in a file: intervals and axes of larger numbers overflow


class Words(NamedTuple):
    """Words of an error message.

    Attributes:
        remedy: what to do.
        row: words before the index of the first dimension, such as "at step"; "" leaves the index out.
    """

    remedy: str
    row: str = ""


STEPS = Words("drop this episode or mend the environment", row="at step")
ACTING = Words("give numbers of the observation space, or mend the environment", row="in environment")


def check_box(array: Array, space: spaces.Box, name: str, words: Words) -> None:
    """Check numbers of a Box by the rule of this module.

    Args:
        array: (*shape) or (N, *shape).
        space: the Box.
        name: the name of the numbers in error messages.
        words: further words of error messages; the row is left out for a single value of the Box.

    Raises:
        UsageError: a number breaks the rule; names the part, the row and the number.
    """
    if _is_small(array):
        return
    is_single = array.ndim == len(space.shape)
    if is_single:
        words = words._replace(row="")
    beyond = f"far outside Box({space.low.min():g}, {space.high.max():g})"
    _check_limits(array, _limits(space), beyond, name, words)


def check_plain_numbers(numbers: Array, name: str, words: Words) -> None:
    """Check numbers that have no space, such as rewards, by the rule of this module.

    Raises:
        UsageError: a number is NaN, infinite or too large for float32.
    """
    if not _is_small(numbers):
        _check_limits(numbers, np.float64(FLOAT32_MAX), "", name, words)


def _is_small(array: Array) -> bool:
    """Return True if no number is larger than `FACTOR`, which every limit allows; False if one is NaN."""
    kind = array.dtype.kind
    is_byte = kind in "iu" and array.dtype.itemsize == 1
    if kind not in "fiu" or is_byte or array.size == 0:
        return True
    return bool(array.max() <= FACTOR and array.min() >= -FACTOR)


def _limits(space: spaces.Box) -> Array:
    """Return the largest size that a number may have, by its place in a Box, float64."""
    low = np.abs(space.low.astype(np.float64))
    high = np.abs(space.high.astype(np.float64))
    bounds = np.maximum(low, high).clip(1, FLOAT32_MAX)
    return np.minimum(FACTOR * bounds, FLOAT32_MAX)


def _check_limits(array: Array, limits: Array | np.float64, beyond: str, name: str, words: Words) -> None:
    """Raise a UsageError if the size of a number is above its limit; `beyond` says what such a number is."""
    sizes = np.abs(array.astype(np.float64))
    is_fine = sizes <= limits
    if is_fine.all():
        return
    index = tuple(np.argwhere(~is_fine)[0].tolist())
    number = array[index]
    at = f" {words.row} {index[0]}" if words.row and index else ""
    if not np.isfinite(number):
        raise UsageError(f"{name} is not finite{at}: {number}; {words.remedy}")
    reason = "more than float32 can hold" if sizes[index] > FLOAT32_MAX else beyond
    raise UsageError(f"{name}{at} holds {number:g}, {reason}; {words.remedy}")
