"""Any consecutive steps of an episode, their state fresh or computed from the segments before (`burn_in`)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from rmt_rl.data.feed import Episodes, FeedConfig, Ints, PickedFeed, Picks
from rmt_rl.data.orders import SHUFFLE, Orders


class WindowFeed(PickedFeed):
    """Windows of `segments * segment_length` steps, or of whole episodes that are shorter.

    Some windows begin before an episode's start or end behind its end, and are then moved into the episode. Every step
    is thus read by at least as many windows as a window has steps. Steps within a window's length of a border are read
    by more windows (less than twice as many; near both borders three times). The start, where acting always begins, and
    the end, where much is decided, are thus not read less often than other steps.

    The state of a window is fresh, or is computed from up to `burn_in` segments before it (Kapturowski et al. 2019,
    "Recurrent Experience Replay in Distributed Reinforcement Learning"). Fewer segments precede windows near an
    episode's start.

    All windows are put in a random order, and in a new one each time all were used. The endless sequence of these
    orders is cut into pools. A pool is sorted by length and cut into batches, and its batches are shuffled.
    """

    burns_in = True

    def __init__(
        self,
        episodes: Episodes,
        config: FeedConfig,
        segment_length: int,
        seed: int,
    ) -> None:
        super().__init__(episodes, config, segment_length, seed)
        ends = np.cumsum(self._window_counts())
        self._firsts = np.append(0, ends)  # first window of each episode; then how many there are
        windows = int(self._firsts[-1])
        self._order = Orders(windows, seed)
        # A pool larger than the data set would put an episode several times into one batch.
        batches_of_data = self._order.size // config.batch_size
        wanted = min(config.bucket_batches, batches_of_data)
        self._pool_batches = max(1, wanted)
        self._burn_in_steps = config.burn_in * segment_length
        self._pool = lru_cache(maxsize=1)(self._drawn_pool)

    def _window_counts(self) -> Ints:
        """Return the number of windows of every episode, int64 (N,)."""
        return self._lengths + self._span - 1

    def picks(self, update: int) -> Picks:
        pool_number, number = divmod(update, self._pool_batches)
        pool = self._pool(pool_number)
        lengths = pool.stop - pool.start
        by_length = np.argsort(lengths, kind="stable")
        batches = by_length.reshape(self._pool_batches, -1)
        generator = np.random.default_rng([self._seed, SHUFFLE, pool_number])
        order = generator.permutation(self._pool_batches)
        batch = order[number]
        chosen = batches[batch]
        return Picks(
            episodes=pool.episodes[chosen],
            start=pool.start[chosen],
            stop=pool.stop[chosen],
            fresh=pool.fresh[chosen],
            burn_in=pool.burn_in[chosen],
        )

    def _drawn_pool(self, number: int) -> Picks:
        """Return the windows of a pool."""
        size = self._pool_batches * self._config.batch_size
        places = number * size + np.arange(size)
        windows = self._order[places]
        episodes = np.searchsorted(self._firsts, windows, side="right") - 1
        last_step = windows - self._firsts[episodes]
        lengths = self._lengths[episodes]
        span = self._span
        start = last_step - span + 1  # before the window is moved into the episode
        latest_start = np.maximum(lengths - span, 0)
        start = np.clip(start, 0, latest_start)
        stop = np.minimum(start + span, lengths)
        return Picks(
            episodes=episodes,
            start=start,
            stop=stop,
            fresh=np.ones(size, np.bool_),
            burn_in=np.minimum(start, self._burn_in_steps),
        )


FEED = WindowFeed
