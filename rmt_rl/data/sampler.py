"""Which steps of which episodes make up a training batch: a pure function of the seed and the update's number.

So a run resumes from the update's number alone; samplers remember only what saves them computing it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, model_validator

from rmt_rl.data.segment import Batch, Segment, Span, collate, cut
from rmt_rl.errors import UsageError

Ints: TypeAlias = npt.NDArray[np.int64]
_ORDER, _SHUFFLE, _FILLERS = range(3)  # what a generator is for: the second word of its seed


class Episodes(Protocol):
    """Where trajectories come from, such as an `EpisodeStore`."""

    @property
    def lengths(self) -> Ints:
        """Steps of every episode, int64 (N,)."""

    def span(self, index: int, start: int, stop: int) -> Span:
        """The steps `start <= step < stop` of an episode; its trajectory may hold more than these."""


class SamplerConfig(BaseModel, frozen=True, extra="forbid"):
    """How training batches are drawn from the data."""

    feed: Literal["episodes", "windows", "streams"] = Field(
        "episodes",
        description="episodes: the first steps of an episode; windows: any consecutive steps of one, state fresh or by "
        "burn_in; streams: each lane goes on where its last update stopped, its state carried along",
    )
    burn_in: int = Field(
        0,
        ge=0,
        description="segments before a window that are run first, without gradient, so that its state is that of an "
        "episode that goes on; windows only",
    )
    segments: int = Field(3, ge=1, description="segments of one update, which the gradient may cross")
    batch_size: int = Field(64, ge=1, description="lanes of a batch")
    bucket_batches: int = Field(
        8, ge=1, description="batches drawn together and sorted by length, for less padding; 1: no sorting"
    )

    @model_validator(mode="after")
    def _burns_in_windows_alone(self) -> Self:
        if self.burn_in and self.feed != "windows":
            raise ValueError(
                f"burn_in={self.burn_in} comes before windows, but feed={self.feed!r} knows the state without it: "
                "choose burn_in=0 or feed='windows'"
            )
        return self


class Picks(NamedTuple):
    """The steps `start <= step < stop` of an episode for each lane, and how it gets its state."""

    episodes: Ints  # (B,)
    start: Ints  # (B,)
    stop: Ints  # (B,)
    fresh: npt.NDArray[np.bool_]  # (B,) the state is fresh; otherwise that of the last update
    burn_in: Ints  # (B,) steps before `start` that are run first


class Sampler(ABC):
    """Draws the batch of any update.

    Args:
        episodes: where the trajectories come from.
        config: how to draw.
        segment_length: steps of a full segment.
        seed: not negative; everything drawn follows from it.
    """

    def __init__(self, episodes: Episodes, config: SamplerConfig, segment_length: int, seed: int) -> None:
        self._episodes = episodes
        self._lengths = episodes.lengths
        self._config = config
        self._segment_length = segment_length
        self._span = config.segments * segment_length  # steps of one lane in one update, at most
        self._seed = seed

    @abstractmethod
    def picks(self, update: int) -> Picks:
        """What the batch of an update (counted from 0) consists of."""

    def batch(self, update: int) -> Batch:
        """The batch of an update, counted from 0; a lane without steps left is padding in the later segments."""
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

    def unread(self) -> str | None:
        """What of the data is never sampled, and the remedy; None where everything is."""
        return None

    def fillers(self, update: int, count: int, lanes: int) -> tuple[Segment, ...]:
        """`count` full segments, each lane of each from an episode drawn at random, of idle steps only.

        Where a task doesn't tell which steps are idle, all are but an episode's first and last: what is shown at a
        start or asked for at an end stays out.

        Raises:
            UsageError: no episode has as many idle steps in a row as a segment.
        """
        starts = self._idle_starts
        if not starts:
            raise UsageError(
                f"segment_length is {self._segment_length}, but no episode (the longest has {self._lengths.max()} "
                "steps) has as many idle steps in a row, which leave out the first and the last or what the task says; "
                "shorten the segments or turn memory ageing off"
            )
        generator = np.random.default_rng([self._seed, _FILLERS, update])
        episodes = generator.choice(list(starts), (count, lanes)).tolist()
        picks = generator.integers(0, [[len(starts[episode]) for episode in row] for row in episodes] or 1).tolist()
        rows = zip(episodes, picks, strict=True) if count else ()
        return tuple(collate([self._filler(*each) for each in zip(*row, strict=True)]) for row in rows)

    def _filler(self, episode: int, pick: int) -> Span:
        start = int(self._idle_starts[episode][pick])
        return self._episodes.span(episode, start, start + self._segment_length)

    @cached_property
    def _idle_starts(self) -> dict[int, Ints]:
        """Of each episode that has any, the steps where a segment of idle steps begins."""
        declared = self._episodes.span(0, 0, 1).trajectory.idle is not None  # else no episode need be read
        found = {}
        for index, length in enumerate(self._lengths.tolist()):
            idle = np.asarray(self._episodes.span(index, 0, length).trajectory.idle) if declared else _inner(length)
            before = np.concatenate([[0], np.cumsum(idle)])
            ahead = before[self._segment_length :] - before[: -self._segment_length]  # idle steps in each window
            starts = np.flatnonzero(ahead == self._segment_length)
            if len(starts):
                found[index] = starts
        return found

    def _spans(self, episodes: Ints, start: Ints, stop: Ints) -> list[Span]:
        triples = zip(episodes.tolist(), start.tolist(), stop.tolist(), strict=True)
        return [self._episodes.span(*each) for each in triples]


def _inner(length: int) -> npt.NDArray[np.bool_]:
    """All steps but the first and the last."""
    steps = np.arange(length)
    return (steps > 0) & (steps < length - 1)


class WindowSampler(Sampler):
    """Windows of `segments * segment_length` steps, or of whole episodes that are shorter.

    Windows begin before an episode's start and end behind its end too, and are then moved into it: so every step is
    read by as many windows as a window has steps, or more within a window's length of the borders (less than twice as
    many, of near both three times). The start, where acting always begins, and the end, where much is decided, aren't
    read less often than other steps.

    Their state is fresh, or that of up to `burn_in` segments before (Kapturowski et al. 2019, "Recurrent Experience
    Replay in Distributed Reinforcement Learning"), which are fewer near an episode's start.

    All windows are put in a random order, anew each time all were used; the endless sequence of these orders is
    cut into pools, a pool is sorted by length and cut into batches, and its batches are shuffled.
    """

    def __init__(self, episodes: Episodes, config: SamplerConfig, segment_length: int, seed: int) -> None:
        super().__init__(episodes, config, segment_length, seed)
        self._firsts = np.concatenate([[0], np.cumsum(self._window_counts())])  # first window of each episode
        self._order = _Orders(int(self._firsts[-1]), seed)
        # A pool larger than the data set would put an episode several times into one batch.
        self._pool_batches = max(1, min(config.bucket_batches, self._order.size // config.batch_size))

    def _window_counts(self) -> Ints:
        return self._lengths + self._span - 1

    def picks(self, update: int) -> Picks:
        """What the batch of an update (counted from 0) consists of."""
        pool, number = divmod(update, self._pool_batches)
        size = self._pool_batches * self._config.batch_size
        items = self._order[pool * size + np.arange(size)]
        episodes = np.searchsorted(self._firsts, items, side="right") - 1
        last = items - self._firsts[episodes]
        lengths = self._lengths[episodes]
        start = np.clip(last - self._span + 1, 0, np.maximum(lengths - self._span, 0))
        stop = np.minimum(start + self._span, lengths)
        by_length = np.argsort(stop - start, kind="stable").reshape(self._pool_batches, -1)
        shuffled = np.random.default_rng([self._seed, _SHUFFLE, pool]).permutation(self._pool_batches)
        chosen = by_length[shuffled[number]]
        before = np.minimum(start, self._config.burn_in * self._segment_length)
        return Picks(episodes[chosen], start[chosen], stop[chosen], np.ones(len(chosen), np.bool_), before[chosen])


class EpisodeSampler(WindowSampler):
    """The first `segments * segment_length` steps of every episode, with a fresh state."""

    def _window_counts(self) -> Ints:
        return np.ones_like(self._lengths)

    def unread(self) -> str | None:
        longest, cut = int(self._lengths.max()), int((self._lengths > self._span).sum())
        if not cut:
            return None
        return (
            f"{cut} of {len(self._lengths)} episodes have more steps (up to {longest}) than the {self._span} that an "
            f"update reads (segments={self._config.segments} of {self._segment_length} steps): what comes after is "
            f"never trained on; give --segments {-(-longest // self._segment_length)}, or --feed windows or streams"
        )


class StreamSampler(Sampler):
    """Lanes that go through whole episodes, a few segments an update, and take up the next one when through.

    Episodes are dealt out in a random order, anew each time all were dealt, to whichever lane is through.
    """

    def __init__(self, episodes: Episodes, config: SamplerConfig, segment_length: int, seed: int) -> None:
        super().__init__(episodes, config, segment_length, seed)
        self._order = _Orders(len(self._lengths), seed)
        self._restart()

    def picks(self, update: int) -> Picks:
        """What the batch of an update (counted from 0) consists of; the time grows with the distance from the last."""
        if update < self._update:
            self._restart()
        while self._update < update:
            self._advance()
        stop = np.minimum(self._start + self._span, self._lengths[self._lane_episodes])
        none = np.zeros_like(stop)
        return Picks(self._lane_episodes.copy(), self._start.copy(), stop, self._start == 0, burn_in=none)

    def _restart(self) -> None:
        lanes = np.arange(self._config.batch_size)
        self._update = 0
        self._dealt = len(lanes)
        self._lane_episodes = self._order[lanes]
        self._start = np.zeros_like(lanes)

    def _advance(self) -> None:
        self._update += 1
        self._start += self._span
        through = np.flatnonzero(self._start >= self._lengths[self._lane_episodes])
        self._lane_episodes[through] = self._order[self._dealt + np.arange(len(through))]
        self._start[through] = 0
        self._dealt += len(through)


class _Orders:
    """The endless sequence of random orders of `size` items, one order after another, indexed by place."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size

        @lru_cache(maxsize=2)  # a pool rarely crosses more than one border
        def order(epoch: int) -> Ints:
            return np.random.default_rng([seed, _ORDER, epoch]).permutation(size)

        self._order = order

    def __getitem__(self, places: Ints) -> Ints:
        """The items at these places, ascending int64."""
        epochs = places // self.size
        parts = [self._order(int(epoch))[places[epochs == epoch] % self.size] for epoch in np.unique(epochs)]
        return np.concatenate(parts) if parts else places


_FEEDS: dict[str, type[Sampler]] = {"episodes": EpisodeSampler, "windows": WindowSampler, "streams": StreamSampler}


def make_sampler(episodes: Episodes, config: SamplerConfig, segment_length: int, seed: int) -> Sampler:
    """The sampler of the configured feed.

    Args:
        episodes: where the trajectories come from, at least one.
        config: how to draw.
        segment_length: steps of a full segment, at least 1.
        seed: not negative; everything drawn follows from it.

    Raises:
        UsageError: the segment length or the seed is out of range.
    """
    for field, value, least in (("segment_length", segment_length, 1), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{field} is {value}; give at least {least}")
    return _FEEDS[config.feed](episodes, config, segment_length, seed)
