"""The first steps of every episode, with a fresh state."""

from __future__ import annotations

import math

import numpy as np

from rmt_rl.data.feed import Ints
from rmt_rl.data.feeds.windows import WindowFeed


class EpisodeFeed(WindowFeed):
    """The first `segments * segment_length` steps of every episode, with a fresh state."""

    burns_in = False

    def _window_counts(self) -> Ints:
        return np.ones_like(self._lengths)

    def unread(self) -> str | None:
        longest = int(self._lengths.max())
        longer = int((self._lengths > self._span).sum())
        if not longer:
            return None
        segments_of_longest = math.ceil(longest / self._segment_length)
        return (
            f"{longer} of {len(self._lengths)} episodes have more steps (up to {longest}) than the {self._span} that "
            f"an update reads (segments={self._config.segments} of {self._segment_length} steps): the steps after "
            f"these are never trained on; give --segments {segments_of_longest}, or --feed windows or streams"
        )


FEED = EpisodeFeed
