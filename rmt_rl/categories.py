"""Discrete variables of a space: how many values each has, and the smallest of them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]


class Categories(NamedTuple):
    """The M discrete variables of a space, in the order of its flattened values.

    The arrays are int64 whatever the dtype of the space: sums of the space's own numbers, such as uint8, may overflow,
    and int64 + uint64 is float64.
    """

    sizes: Integers  # (M,) numbers of values
    starts: Integers  # (M,) smallest values

    @property
    def last(self) -> Integers:
        """Largest values, int64 (M,)."""
        return self.starts + self.sizes - 1


def categories(space: Space[Any]) -> Categories | None:
    """Return the discrete variables of a Discrete, MultiDiscrete, MultiBinary or bool Box; None for other spaces."""
    match space:
        case spaces.Discrete():
            return _categories(space.n, space.start)
        case spaces.MultiDiscrete():
            return _categories(space.nvec, space.start)
        case spaces.MultiBinary():
            sizes = np.full(space.shape, 2)
            return _categories(sizes, np.zeros_like(sizes))
        case spaces.Box() if space.dtype == np.bool_:
            starts = space.low.astype(np.int64)
            return _categories(space.high - starts + 1, starts)
        case _:
            return None


def _categories(sizes: Any, starts: Any) -> Categories:
    return Categories(np.ravel(sizes).astype(np.int64), np.ravel(starts).astype(np.int64))
