"""The last steps of every episode, with a fresh state."""

from __future__ import annotations

import numpy as np

from rmt_rl.data.feed import Orders, PickedFeed, Picks


class EndingFeed(PickedFeed):
    """The last `segments * segment_length` steps of every episode, in a random order."""

    def picks(self, update: int) -> Picks:
        size = self._config.batch_size
        order = Orders(len(self._lengths), self._seed)
        episodes = order[update * size + np.arange(size)]
        stop = self._lengths[episodes]
        start = np.maximum(stop - self._span, 0)
        return Picks(episodes, start, stop, fresh=np.ones(size, np.bool_), burn_in=np.zeros(size, np.int64))


FEED = EndingFeed
