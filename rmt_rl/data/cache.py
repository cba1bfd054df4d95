"""The episodes of a data set that were used last, within a limit of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from rmt_rl.data.trajectory import Trajectory
from rmt_rl.trees import leaves

_BYTES_OF_EPISODE = 1024  # of Python objects around its arrays (measured)
_BYTES_OF_ARRAY = 256  # of Python objects around it (measured)


class Key(NamedTuple):
    """An entry of the cache: an episode of one of several data sets, or its outline."""

    dataset: int
    episode: int
    is_outline: bool


class EpisodeCache:
    """The episodes and outlines that were used last.

    Attributes:
        bytes: the memory that they take up.
    """

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        self._limit = limit
        self._entries: OrderedDict[Key, Trajectory] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key, read: Callable[[], Trajectory]) -> Trajectory:
        """Return an entry; if it is missing, read it, and drop the least recently used entries for it."""
        entries = self._entries
        if key in entries:
            entries.move_to_end(key)
            return entries[key]
        trajectory = read()
        self.put(key, trajectory)
        return trajectory

    def put(self, key: Key, trajectory: Trajectory) -> None:
        """Add an entry, and drop the least recently used entries for it."""
        entries = self._entries
        entries[key] = trajectory
        self.bytes += _cost(trajectory)
        while self.bytes > self._limit:
            _, dropped = entries.popitem(last=False)
            self.bytes -= _cost(dropped)


def _cost(trajectory: Trajectory) -> int:
    """Return the bytes of memory that a trajectory takes up."""
    steps = (trajectory.observations, trajectory.actions)
    arrays = list(leaves(steps))
    return trajectory.nbytes + _BYTES_OF_EPISODE + _BYTES_OF_ARRAY * len(arrays)
