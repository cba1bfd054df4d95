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
from typing import Any, NoReturn, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from rmt_rl.errors import UsageError
from rmt_rl.trees import leaves, part_at, place_name

Array: TypeAlias = NDArray[Any]
Categories: TypeAlias = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary

FACTOR = 1000.0
FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_numbers(values: Any, space: Space[Any], name: str, row: str = "") -> None:
    """Check a value of a space, or a batch of values, by the rule of this module.

    Args:
        values: a tree of arrays (*shape) or (N, *shape), in the space's structure.
        space: parts other than Box, Discrete, MultiDiscrete and MultiBinary aren't looked at.
        name: the name of the values in error messages.
        row: words before the index of the first dimension in error messages, such as "at step"; "" leaves it out.

    Raises:
        UsageError: a number breaks the rule; names the part, the row and the number.
    """
    for place, leaf in leaves(space):
        if isinstance(leaf, spaces.Box):
            array = np.asarray(part_at(values, place))
            if not _is_small(array):
                _check_box(array, leaf, place_name(name, place), row)
        elif isinstance(leaf, Categories):
            array = np.asarray(part_at(values, place))
            _check_categories(array, leaf, place_name(name, place), row)


def check_rewards(rewards: Array, name: str = "rewards", row: str = "") -> None:
    """Check numbers (N,) that have no space; see `check_numbers`.

    Raises:
        UsageError: a number is NaN, infinite or too large for float32.
    """
    if not _is_small(rewards):
        _check_limits(rewards, np.float64(FLOAT32_MAX), "", name, row)


def _is_small(array: Array) -> bool:
    """Return True if no number is larger than `FACTOR`, which every limit allows; False if one is NaN."""
    kind = array.dtype.kind
    if kind not in "fiu" or array.size == 0 or (kind != "f" and array.dtype.itemsize == 1):
        return True
    return bool(array.max() <= FACTOR and array.min() >= -FACTOR)


def _check_box(array: Array, space: spaces.Box, name: str, row: str) -> None:
    """Raise a UsageError if a number is far outside a Box."""
    low = space.low.astype(np.float64)
    high = space.high.astype(np.float64)
    bounds = np.maximum(np.abs(low), np.abs(high)).clip(1, FLOAT32_MAX)
    limits = np.minimum(FACTOR * bounds, FLOAT32_MAX)
    _check_limits(array, limits, f"far outside Box({low.min():g}, {high.max():g})", name, row)


def _check_limits(array: Array, limits: Array | np.float64, beyond: str, name: str, row: str) -> None:
    """Raise a UsageError if the size of a number is above its limit; `beyond` says what such a number is."""
    sizes = np.abs(array.astype(np.float64))
    is_bad = ~(sizes <= limits)
    if not is_bad.any():
        return
    first = tuple(np.argwhere(is_bad)[0])
    number = array[first]
    at = f" {row} {first[0]}" if row and first else ""
    if not np.isfinite(number):
        raise UsageError(f"{name} is not finite{at}: {number}")
    reason = "more than float32 can hold" if sizes[first] > FLOAT32_MAX else beyond
    raise UsageError(f"{name} holds {number:g}{at}, {reason}")


def _check_categories(array: Array, space: Categories, name: str, row: str) -> None:
    """Raise a UsageError if a number is no category of its space."""
    match space:
        case spaces.Discrete():
            first, count = space.start, space.n
        case spaces.MultiDiscrete():
            first, count = space.start, space.nvec
        case _:
            first, count = 0, 2
    is_category = (array >= first) & (array < first + count)
    if is_category.all():
        return
    index = tuple(np.argwhere(~is_category)[0])
    at = f" {row} {index[0]}" if row and index else ""
    raise UsageError(f"{name} holds {array[index]}{at}, which is not in {space}")


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
