"""Whole episodes, a few segments an update: each batch element continues where its last update stopped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field, JsonValue

from rmt_rl.config import SavedState, validated
from rmt_rl.data.feed import Episodes, FeedConfig, PickedFeed, Picks
from rmt_rl.data.feeds.episodes import EpisodeFeed
from rmt_rl.data.orders import Orders
from rmt_rl.errors import UsageError


class StreamFeed(PickedFeed):
    """Batch elements read whole episodes, a few segments an update.

    A batch element that reached the end of its episode begins the next one. Episodes are dealt out in a random order,
    and in a new one each time all were dealt.

    Under a curriculum, streams wait until the last length is learnt. Until then the first steps of episodes are read.

    Attributes:
        begun: the update at which streams begin; None while they wait.
    """

    carries = True

    def __init__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> None:
        super().__init__(episodes, config, segment_length, seed)
        self.begun: int | None = 0
        self._beginnings = EpisodeFeed(episodes, config, segment_length, seed)
        self._order = Orders(len(self._lengths), seed)
        self._rewind()

    def wait(self) -> None:
        """Read episodes' first steps until `begun` is set."""
        self.begun = None

    def picks(self, update: int) -> Picks:
        """Return the steps of an update's batch; the cost grows with the distance from the last requested update."""
        if self.begun is None or update < self.begun:
            return self._beginnings.picks(update)
        update -= self.begun
        if update < self._update:
            self._rewind()
        while self._update < update:
            self._advance()
        episodes = self._open.copy()
        start = self._start.copy()
        lengths = self._lengths[episodes]
        stop = np.minimum(start + self._span, lengths)
        return Picks(episodes, start, stop, fresh=start == 0, burn_in=np.zeros_like(stop))

    def _rewind(self) -> None:
        """Go back to the first update."""
        elements = np.arange(self._config.batch_size)
        self._update = 0
        self._dealt = len(elements)  # episodes that were begun
        self._open = self._order[elements]  # (B,) the episode of each batch element
        self._start = np.zeros_like(elements)  # (B,) the next step of each batch element

    def _advance(self) -> None:
        """Go on to the next update."""
        self._update += 1
        self._start += self._span
        lengths = self._lengths[self._open]
        ended = np.flatnonzero(self._start >= lengths)
        count = len(ended)
        places = self._dealt + np.arange(count)
        self._open[ended] = self._order[places]
        self._start[ended] = 0
        self._dealt += count

    def state(self) -> dict[str, JsonValue]:
        return {"streams_from": self.begun, "segments": self._config.segments}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        saved = validated(_Saved, state)
        waits = self.begun is None
        self.begun = saved.streams_from
        if self.begun is None and not waits:  # the run had a curriculum, and has none from now on
            self.begun = update
        is_under_way = self.begun is not None and self.begun < update
        segments = self._config.segments
        segments_before = saved.segments or segments
        if is_under_way and segments_before != segments:
            raise UsageError(
                f"segments={segments}, but the streams of this run were read with "
                f"segments={segments_before}: they stand elsewhere, and the carried states are of other steps; "
                "undo what was changed in the run's config.toml"
            )

    def measures(self) -> dict[str, float]:
        is_streaming = self.begun is not None
        return {"data/streams": float(is_streaming)}


class _Saved(SavedState):
    streams_from: int | None = Field(None, ge=0)  # None if the run had another feed until now, or streams wait
    segments: int | None = Field(None, ge=1)


FEED = StreamFeed
