"""The first steps of every episode, with a fresh state."""

from __future__ import annotations

import numpy as np

from rmt_rl.data.feed import Ints
from rmt_rl.data.feeds.windows import WindowFeed


class BeginningFeed(WindowFeed):
    """The first `segments * segment_length` steps of every episode, with a fresh state."""

    burns_in = False

    def _window_counts(self) -> Ints:
        return np.ones_like(self._lengths)

    def unread(self) -> str | None:
        longest = int(self._lengths.max())
        cut = int((self._lengths > self._span).sum())
        if not cut:
            return None
        return (
            f"{cut} of {len(self._lengths)} episodes have more steps (up to {longest}) than the {self._span} that an "
            f"update reads (segments={self._config.segments} of {self._segment_length} steps): what comes after is "
            f"never trained on; give --segments {-(-longest // self._segment_length)}, or --feed windows or streams"
        )


FEED = BeginningFeed
