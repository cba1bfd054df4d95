"""The rule for numbers that come in: of observations, actions, rewards and files.

- NaN and infinity are refused.
- A number that float32 can't hold (larger than 3.4e38) is refused, since networks compute in float32.
- A number more than `FACTOR` times as large as the largest bound of its Box (or as 1, if the bounds are smaller) is
  refused. Numbers slightly outside their Box are common in real environments and data sets, and are accepted. Where a
  Box has no bound on a side, every number that float32 can hold is accepted.
- A category outside its Discrete, MultiDiscrete or MultiBinary space is refused.

The checks look at the extremes of a whole batch first, which takes microseconds.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from rmt_rl.errors import UsageError
from rmt_rl.trees import leaves, part_at, place_name

Array: TypeAlias = NDArray[Any]
Index: TypeAlias = tuple[int, ...]
Categories: TypeAlias = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary

FACTOR = 1000.0
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Words(NamedTuple):
    """Words of an error message.

    Attributes:
        remedy: what to do.
        row: words before the index of the first dimension, such as "at step"; "" leaves the index out.
    """

    remedy: str
    row: str = ""


STEPS = Words("drop this episode or mend the environment", row="at step")


def acting_words(is_single: bool) -> Words:
    """Return the words for an observation to act on: of one environment, or of several."""
    row = "" if is_single else "in environment"
    return Words("give numbers of the observation space, or mend the environment", row)


def check_numbers(values: Any, space: Space[Any], name: str, words: Words) -> None:
    """Check a value of a space, or a batch of values, by the rule of this module.

    Args:
        values: a tree of arrays (*shape) or (N, *shape), in the space's structure.
        space: parts other than Box, Discrete, MultiDiscrete and MultiBinary aren't looked at.
        name: the name of the values in error messages.
        words: further words of error messages.

    Raises:
        UsageError: a number breaks the rule; names the part, the row and the number.
    """
    for place, leaf in leaves(space):
        if isinstance(leaf, spaces.Box):
            array = np.asarray(part_at(values, place))
            if not _is_small(array):
                beyond = f"far outside Box({leaf.low.min():g}, {leaf.high.max():g})"
                _check_limits(array, _limits(leaf), beyond, place_name(name, place), words)
        elif isinstance(leaf, Categories):
            array = np.asarray(part_at(values, place))
            _check_categories(array, leaf, place_name(name, place), words)


def check_plain_numbers(numbers: Array, name: str, words: Words) -> None:
    """Check numbers that have no space, such as rewards; see `check_numbers`.

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
    index = _first(~is_fine)
    number = array[index]
    at = _at(index, words)
    if not np.isfinite(number):
        raise UsageError(f"{name} is not finite{at}: {number}; {words.remedy}")
    reason = "more than float32 can hold" if sizes[index] > FLOAT32_MAX else beyond
    raise UsageError(f"{name}{at} holds {number:g}, {reason}; {words.remedy}")


def _check_categories(array: Array, space: Categories, name: str, words: Words) -> None:
    """Raise a UsageError if a number is no category of its space."""
    start: Any
    count: Any
    match space:
        case spaces.Discrete():
            start, count = space.start, space.n
        case spaces.MultiDiscrete():
            start, count = space.start, space.nvec
        case _:
            start, count = 0, 2
    is_category = (array >= start) & (array < start + count)
    if is_category.all():
        return
    index = _first(~is_category)
    at = _at(index, words)
    raise UsageError(f"{name}{at} holds {array[index]}, which is not in {space}; {words.remedy}")


def _first(mask: Array) -> Index:
    """Return the index of the first True."""
    return tuple(np.argwhere(mask)[0].tolist())


def _at(index: Index, words: Words) -> str:
    """Return the words for a place, such as " at step 3"."""
    return f" {words.row} {index[0]}" if words.row and index else ""


def finite_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text isn't JSON, or a number is NaN, infinite or too large for a float, which JSON lacks.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite_float)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if not np.isfinite(number):
        _refuse(text)
    return number
