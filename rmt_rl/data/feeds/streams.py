"""Whole episodes, a few segments an update: each batch element goes on where its last update stopped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import JsonValue

from rmt_rl.config import SavedState, validated
from rmt_rl.data.feed import EpisodeFeed, Episodes, FeedConfig, Orders, Picks
from rmt_rl.data.feeds.episodes import BeginningFeed
from rmt_rl.errors import UsageError


class StreamFeed(EpisodeFeed):
    """Batch elements that go through whole episodes, a few segments an update, and then take up the next episode.

    Episodes are dealt out in a random order, anew each time all were dealt, to whichever element is through.

    Under a curriculum streams wait until the last length is learnt. Until then episodes' first steps are read.

    Attributes:
        begun: the update at which streams begin; None while they wait.
    """

    carries = True

    def __init__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> None:
        super().__init__(episodes, config, segment_length, seed)
        self.begun: int | None = 0
        self._beginnings = BeginningFeed(episodes, config, segment_length, seed)
        self._order = Orders(len(self._lengths), seed)
        self._rewind()

    def wait(self) -> None:
        """Read episodes' first steps until `begun` is set."""
        self.begun = None

    def picks(self, update: int) -> Picks:
        """Return which steps make up the batch of an update; the time grows with the distance from the last one."""
        if self.begun is None or update < self.begun:
            return self._beginnings.picks(update)
        update -= self.begun
        if update < self._update:
            self._rewind()
        while self._update < update:
            self._advance()
        stop = np.minimum(self._start + self._span, self._lengths[self._open])
        none = np.zeros_like(stop)
        return Picks(self._open.copy(), self._start.copy(), stop, self._start == 0, burn_in=none)

    def _rewind(self) -> None:
        elements = np.arange(self._config.batch_size)
        self._update = 0
        self._dealt = len(elements)
        self._open = self._order[elements]  # (B,) the episode of each batch element
        self._start = np.zeros_like(elements)

    def _advance(self) -> None:
        self._update += 1
        self._start += self._span
        through = np.flatnonzero(self._start >= self._lengths[self._open])
        self._open[through] = self._order[self._dealt + np.arange(len(through))]
        self._start[through] = 0
        self._dealt += len(through)

    def state(self) -> dict[str, JsonValue]:
        return {"streams_from": self.begun}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        saved = validated(_Saved, state)
        waits = self.begun is None
        self.begun = saved.streams_from
        if self.begun is None and not waits:  # a curriculum that is broken off here
            self.begun = update
        under_way = self.begun is not None and self.begun < update
        if under_way and saved.drawn.segments != self._config.segments:
            raise UsageError(
                f"segments={self._config.segments}, but the streams of this run were read with "
                f"segments={saved.drawn.segments}: they stand elsewhere, and the carried states are of other steps; "
                "undo what was changed in the run's config.toml"
            )

    def measures(self) -> dict[str, float]:
        return {"data/streams": float(self.begun is not None)}


class _Drawn(SavedState):
    segments: int


class _Saved(SavedState):
    streams_from: int | None
    drawn: _Drawn  # options of the feed, which the learner saves


FEED = StreamFeed
