"""Any consecutive steps of an episode, their state fresh or computed from the segments before (`burn_in`)."""

from __future__ import annotations

import numpy as np

from rmt_rl.data.feed import SHUFFLE, EpisodeFeed, Episodes, FeedConfig, Ints, Orders, Picks


class WindowFeed(EpisodeFeed):
    """Windows of `segments * segment_length` steps, or of whole episodes that are shorter.

    Windows begin before an episode's start and end behind its end too, and are then moved into the episode. So every
    step is read by as many windows as a window has steps, or by more within a window's length of the borders (less than
    twice as many; near both borders three times). The start, where acting always begins, and the end, where much is
    decided, aren't read less often than other steps.

    The state of a window is fresh, or is computed from up to `burn_in` segments before it (Kapturowski et al. 2019,
    "Recurrent Experience Replay in Distributed Reinforcement Learning"). There are fewer of them near an episode's
    start.

    All windows are put in a random order, anew each time all were used. The endless sequence of these orders is cut
    into pools, a pool is sorted by length and cut into batches, and its batches are shuffled.
    """

    burns_in = True

    def __init__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> None:
        super().__init__(episodes, config, segment_length, seed)
        self._firsts = np.concatenate([[0], np.cumsum(self._window_counts())])  # first window of each episode
        self._order = Orders(int(self._firsts[-1]), seed)
        # A pool larger than the data set would put an episode several times into one batch.
        self._pool_batches = max(1, min(config.bucket_batches, self._order.size // config.batch_size))

    def _window_counts(self) -> Ints:
        return self._lengths + self._span - 1

    def picks(self, update: int) -> Picks:
        pool, number = divmod(update, self._pool_batches)
        episodes, start, stop = self._pool(pool)
        by_length = np.argsort(stop - start, kind="stable").reshape(self._pool_batches, -1)
        shuffled = np.random.default_rng([self._seed, SHUFFLE, pool]).permutation(self._pool_batches)
        chosen = by_length[shuffled[number]]
        before = np.minimum(start, self._config.burn_in * self._segment_length)
        fresh = np.ones(len(chosen), np.bool_)
        return Picks(episodes[chosen], start[chosen], stop[chosen], fresh, before[chosen])

    def _pool(self, pool: int) -> tuple[Ints, Ints, Ints]:
        """Return episode, first step and step after the last of every window of a pool."""
        size = self._pool_batches * self._config.batch_size
        windows = self._order[pool * size + np.arange(size)]
        episodes = np.searchsorted(self._firsts, windows, side="right") - 1
        last = windows - self._firsts[episodes]
        lengths = self._lengths[episodes]
        start = np.clip(last - self._span + 1, 0, np.maximum(lengths - self._span, 0))
        return episodes, start, np.minimum(start + self._span, lengths)


FEED = WindowFeed
