"""Random orders of many items, stored if they are small and computed item by item if they are large."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]
ORDER, SHUFFLE, FILLERS = range(3)  # purposes of random numbers: the second word of a generator's seed
STORED = 1 << 24
"""Items of the largest order that is stored, in 64 MiB."""
_ROUNDS = 8
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of SplitMix64 (Steele et al. 2014)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class Orders:
    """The endless sequence of random orders of `size` items, one order after another, indexed by place."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size

        @lru_cache(maxsize=2)  # a pool of windows rarely crosses more than one border
        def order(epoch: int) -> Callable[[Ints], Ints]:
            generator = np.random.default_rng([seed, ORDER, epoch])
            return _stored(generator, size) if size <= STORED else ComputedOrder(generator, size).at

        self._order = order

    def __getitem__(self, places: Ints) -> Ints:
        """Return the items at these places, ascending int64."""
        epochs = places // self.size
        parts = [places[:0]]
        for epoch in np.unique(epochs):
            inside = places[epochs == epoch] % self.size
            items = self._order(int(epoch))
            parts.append(items(inside))
        return np.concatenate(parts)


def _stored(generator: np.random.Generator, size: int) -> Callable[[Ints], Ints]:
    """Return the function from places to items of a stored random order."""
    order = np.arange(size, dtype=np.uint32)
    generator.shuffle(order)  # as `generator.permutation(size)`, in half the memory
    return lambda places: order[places].astype(np.int64)


class ComputedOrder:
    """A random order of `size` items that takes up no memory.

    A Feistel network permutes the numbers below the next power of 4. A number that isn't below `size` is permuted again
    until one is (cycle walking; Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
    """

    def __init__(self, generator: np.random.Generator, size: int) -> None:
        self._size = np.uint64(size)
        half = -(-(size - 1).bit_length() // 2)
        self._half = np.uint64(max(half, 1))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys: Words = generator.integers(0, 1 << 64, _ROUNDS, np.uint64)

    def at(self, places: Ints) -> Ints:
        """Return the items at these places, 0 <= place < size, int64."""
        items = self._permuted(places.astype(np.uint64))
        outside = np.flatnonzero(items >= self._size)
        while len(outside):
            items[outside] = self._permuted(items[outside])
            outside = outside[items[outside] >= self._size]
        return items.astype(np.int64)

    def _permuted(self, numbers: Words) -> Words:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half) | right


def _mixed(words: Words) -> Words:
    """Return the words with each bit depending on all bits."""
    for shift, factor in zip(_SHIFTS, _MIX, strict=False):
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> _SHIFTS[2])
