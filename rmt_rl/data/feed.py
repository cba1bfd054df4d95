"""Feeds: the batch of each update, as a function of the seed and the update's number.

A feed of agents draws batches of segments from episodes; each file in `rmt_rl.data.feeds` draws them in another way. A
run resumes from the update's number and the feed's JSON `state`. Anything else that a feed stores is a cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, NamedTuple, Protocol, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, JsonValue, field_validator, model_validator

from rmt_rl.config import Frozen
from rmt_rl.data.orders import Orders as Orders  # for feeds of others
from rmt_rl.data.segment import Batch, Span, cut
from rmt_rl.errors import UsageError
from rmt_rl.registry import feed_class

Ints: TypeAlias = npt.NDArray[np.int64]
BatchT = TypeVar("BatchT")
OutcomeT = TypeVar("OutcomeT")


class Feed(ABC, Generic[BatchT, OutcomeT]):
    """The batches of a training run, one an update.

    Attributes:
        rows: the batch elements that a process trains on; a feed may draw these alone, or the whole batch.
        carries: batch elements may continue where the last update stopped, so the learner keeps their states.
        burns_in: the option `burn_in` has an effect.
    """

    rows: slice = slice(None)
    carries: bool = False
    burns_in: ClassVar[bool] = False

    @abstractmethod
    def batch(self, update: int) -> BatchT:
        """Return the batch of an update, counted from 0."""

    def uncut(self, update: int) -> BatchT:
        """Return the batch of an update as it was before a curriculum cut it."""
        return self.batch(update)

    def learn(self, update: int, outcome: OutcomeT) -> None:
        """Take note of the outcome of an update on its batch."""

    def state(self) -> dict[str, JsonValue]:
        """Return the values that `restore` needs, besides the update's number."""
        return {}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        """Continue from a `state`, which may hold other keys too; `update` is the number of the next update.

        Raises:
            UsageError: the options of the feed don't fit the state.
        """

    def measures(self) -> dict[str, float]:
        """Return metrics to log about the last batch."""
        return {}

    def unread(self) -> str | None:
        """Return a warning about data that are never read, with the remedy; None if all data are read."""
        return None

    def unreached(self) -> str | None:
        """Return a warning about a stage that the finished run never reached, with the remedy; else None."""
        return None


class Outcome(NamedTuple):
    """The outcome of an update."""

    segments: int  # segments of the batch
    accuracy: float  # share of right actions; of right decisive actions if the environment declares them


SegmentFeed: TypeAlias = Feed[Batch, Outcome]


class Episodes(Protocol):
    """A source of trajectories, such as an `EpisodeStore`."""

    @property
    def lengths(self) -> Ints:
        """Steps of every episode, int64 (N,)."""

    def span(self, index: int, start: int, stop: int) -> Span:
        """Return the steps `start <= step < stop` of an episode; the span's trajectory may hold more than these."""


class DrawOptions(Frozen):
    """Options for drawing training batches from the data; a checkpoint keeps them."""

    feed: str = Field(
        "episodes",
        description="episodes: the first steps of an episode; windows: any consecutive steps of an episode; streams: "
        "each batch element continues where its last update stopped, with its state; or another feed of rmt-rl list",
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


class FeedConfig(DrawOptions):
    """Options for drawing training batches from the data, by a feed that exists."""

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
    """The steps `start <= step < stop` of an episode for each batch element, and the source of its state."""

    episodes: Ints  # (B,)
    start: Ints  # (B,)
    stop: Ints  # (B,)
    fresh: npt.NDArray[np.bool_]  # (B,) True: a fresh state; False: the state of the last update
    burn_in: Ints  # (B,) steps before `start` that are run first, to compute the state


class FeedClass(Protocol):
    """A class of segment feeds; see `PickedFeed` for the arguments and errors.

    Attributes:
        burns_in: batches heed `burn_in`.
    """

    burns_in: bool

    def __call__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> SegmentFeed: ...


class PickedFeed(SegmentFeed):
    """Base of feeds that pick consecutive steps of episodes.

    Args:
        episodes: the source of trajectories, at least one.
        config: options.
        segment_length: steps of a full segment.
        seed: not negative; it determines all that is drawn.

    Raises:
        UsageError: the segment length or the seed is out of range.
    """

    def __init__(self, episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> None:
        _check_least("segment_length", segment_length, 1)
        _check_least("seed", seed, 0)
        self._episodes = episodes
        self._lengths = episodes.lengths
        self._config = config
        self._segment_length = segment_length
        self._span = config.segments * segment_length  # most steps of a batch element in one update
        self._seed = seed

    @abstractmethod
    def picks(self, update: int) -> Picks:
        """Return which steps make up the batch of an update, counted from 0."""

    def batch(self, update: int) -> Batch:
        """Return the batch of an update; a sequence without steps left is padding in the later segments."""
        picks = self.picks(update)
        lengths = picks.stop - picks.start
        spans = self._spans(picks)
        halves = [span.split(steps) for span, steps in zip(spans, picks.burn_in[self.rows].tolist(), strict=True)]
        burn_in, rest = zip(*halves, strict=True)
        return Batch(
            cut(rest, self._segment_length, lengths),
            fresh=torch.from_numpy(picks.fresh[self.rows]),
            steps=int(lengths.sum()),
            burn_in=cut(burn_in, self._segment_length, picks.burn_in),
        )

    def _spans(self, picks: Picks) -> list[Span]:
        """Return the picked steps of this process's batch elements, with the steps of their burn-in before them."""
        first = picks.start - picks.burn_in
        columns = (picks.episodes, first, picks.stop)
        rows = zip(*(column[self.rows].tolist() for column in columns), strict=True)
        return [self._episodes.span(episode, start, stop) for episode, start, stop in rows]


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}; give at least {least}")


def make_feed(episodes: Episodes, config: FeedConfig, segment_length: int, seed: int) -> SegmentFeed:
    """Return the feed that `config.feed` names; see `PickedFeed` for the arguments and errors."""
    return feed_class(config.feed)(episodes, config, segment_length, seed)
