"""Feeds: what each update trains on, as a function of the seed and the update's number.

A feed of agents draws batches of segments from episodes; `rmt_rl.data.feeds` has one way to draw a file. A run resumes
from the update's number and the feed's JSON `state`; whatever else a feed remembers only saves computing it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Generic, NamedTuple, Protocol, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, JsonValue, field_validator, model_validator

from rmt_rl.config import Frozen
from rmt_rl.data.segment import Batch, Span, cut
from rmt_rl.errors import UsageError
from rmt_rl.registry import feed_class

Ints: TypeAlias = npt.NDArray[np.int64]
BatchT = TypeVar("BatchT")
OutcomeT = TypeVar("OutcomeT")
ORDER, SHUFFLE, FILLERS = range(3)  # purposes of random numbers: the second word of a generator's seed


class Feed(ABC, Generic[BatchT, OutcomeT]):
    """The batches of a training run, asked for one update after another.

    Attributes:
        carries: batch elements may go on where the last update stopped, so the learner carries their states along.
        burns_in: batches heed `burn_in`.
    """

    carries: bool = False
    burns_in: ClassVar[bool] = False

    @abstractmethod
    def batch(self, update: int) -> BatchT:
        """Return the batch of an update, counted from 0."""

    def learn(self, update: int, outcome: OutcomeT) -> None:
        """Take note of what an update made of its batch."""

    def state(self) -> dict[str, JsonValue]:
        """Return what `restore` needs, besides the update's number."""
        return {}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        """Go on from a `state`, which may hold other keys too; `update` is the next one.

        Raises:
            UsageError: the options of the feed don't fit the state.
        """

    def measures(self) -> dict[str, float]:
        """Return what to log of the batch that was drawn last."""
        return {}

    def unread(self) -> str | None:
        """Return a warning about data that are never read, with the remedy; None if all are."""
        return None

    def unreached(self) -> str | None:
        """Return a warning about what the finished run never came to, with the remedy; None if there is nothing."""
        return None


class Outcome(NamedTuple):
    """What an update made of its batch."""

    segments: int  # of the batch
    accuracy: float  # share of right actions, of the decisive ones if the environment declares them


SegmentFeed: TypeAlias = Feed[Batch, Outcome]


class Episodes(Protocol):
    """A source of trajectories, such as an `EpisodeStore`."""

    @property
    def lengths(self) -> Ints:
        """Steps of every episode, int64 (N,)."""

    def span(self, index: int, start: int, stop: int) -> Span:
        """Return the steps `start <= step < stop` of an episode; the span's trajectory may hold more than these."""


class FeedConfig(Frozen):
    """Options of drawing training batches from the data."""

    feed: str = Field(
        "episodes",
        description="episodes: the first steps of an episode; windows: any consecutive steps of an episode; streams: "
        "each batch element goes on where its last update stopped, with its state; or another feed of rmt-rl list",
    )
    burn_in: int = Field(
        0,
        ge=0,
        description="windows only: segments before a window that are run without gradient to compute its state",
    )
    segments: int = Field(3, ge=1, description="segments of one update; gradients may cross them")
    batch_size: int = Field(64, ge=1, description="sequences of a batch")
    bucket_batches: int = Field(
        8, ge=1, description="batches drawn together and sorted by length, for less padding; 1: no sorting"
    )

    @field_validator("feed")
    @classmethod
    def _exists(cls, name: str) -> str:
        feed_class(name)
        return name

    @model_validator(mode="after")
    def _burns_in_windows_alone(self) -> Self:
        if self.burn_in and not feed_class(self.feed).burns_in:
            raise ValueError(
                f"burn_in={self.burn_in} computes the states of windows, but feed={self.feed!r} has none: choose "
                "burn_in=0 or feed='windows'"
            )
        return self


class Picks(NamedTuple):
    """The steps `start <= step < stop` of an episode for each batch element, and how it gets its state."""

    episodes: Ints  # (B,)
    start: Ints  # (B,)
    stop: Ints  # (B,)
    fresh: npt.NDArray[np.bool_]  # (B,) True: the state is fresh; False: the state is that of the last update
    burn_in: Ints  # (B,) steps before `start` that are run first


class FeedClass(Protocol):
    """A class of segment feeds; see `EpisodeFeed` for the arguments and errors.

    Attributes:
        burns_in: batches heed `burn_in`.
    """

    burns_in: bool

    def __call__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> SegmentFeed: ...


class EpisodeFeed(SegmentFeed):
    """Base of feeds that pick consecutive steps of episodes.

    Args:
        episodes: the source of trajectories, one at least.
        config: options.
        segment_length: steps of a full segment.
        seed: not negative; everything drawn follows from it.

    Raises:
        UsageError: the segment length or the seed is out of range.
    """

    def __init__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> None:
        for field, value, least in (("segment_length", segment_length, 1), ("seed", seed, 0)):
            if value < least:
                raise UsageError(f"{field} is {value}; give at least {least}")
        self._episodes = episodes
        self._lengths = episodes.lengths
        self._config = config
        self._segment_length = segment_length
        self._span = config.segments * segment_length  # steps of a batch element in one update, at most
        self._seed = seed

    @abstractmethod
    def picks(self, update: int) -> Picks:
        """Return which steps make up the batch of an update, counted from 0."""

    def batch(self, update: int) -> Batch:
        """Return the batch of an update; a sequence without steps left is padding in the later segments."""
        picks = self.picks(update)
        first = picks.start - picks.burn_in
        spans = self._spans(picks.episodes, first, picks.stop)
        burn_in, rest = zip(*map(Span.split, spans, picks.burn_in.tolist()), strict=True)
        return Batch(
            cut(rest, self._segment_length),
            fresh=torch.from_numpy(picks.fresh),
            steps=int((picks.stop - picks.start).sum()),
            burn_in=cut(burn_in, self._segment_length),
        )

    def _spans(self, episodes: Ints, start: Ints, stop: Ints) -> list[Span]:
        triples = zip(episodes.tolist(), start.tolist(), stop.tolist(), strict=True)
        return [self._episodes.span(*each) for each in triples]


class Orders:
    """The endless sequence of random orders of `size` items, one order after another, indexed by place."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size

        @lru_cache(maxsize=2)  # a pool rarely crosses more than one border
        def order(epoch: int) -> Ints:
            return np.random.default_rng([seed, ORDER, epoch]).permutation(size)

        self._order = order

    def __getitem__(self, places: Ints) -> Ints:
        """Return the items at these places, ascending int64."""
        epochs = places // self.size
        parts = [self._order(int(epoch))[places[epochs == epoch] % self.size] for epoch in np.unique(epochs)]
        return np.concatenate(parts) if parts else places


def make_feed(episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> SegmentFeed:
    """Return the feed that `config.feed` names; see `EpisodeFeed` for the arguments and errors."""
    return feed_class(config.feed)(episodes, config, segment_length, seed)
