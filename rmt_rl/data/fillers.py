"""Filler segments: idle steps from the middles of episodes, through which memory ageing carries memories."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from rmt_rl.data.feed import Episodes, Ints
from rmt_rl.data.orders import FILLERS
from rmt_rl.data.segment import Segment, collate
from rmt_rl.errors import UsageError

Bools: TypeAlias = npt.NDArray[np.bool_]


class _Runs(NamedTuple):
    """Runs of consecutive starts, one episode's after another's: N starts have far fewer runs."""

    first: Ints  # (R,) the run's first start
    places: Ints  # (R,) its place among all starts


class _IdleStarts:
    """The steps at which a full segment of idle steps begins, by episode.

    Args:
        episodes: the episodes with such steps, int64 (N,), ascending.
        counts: their numbers of such steps, int64 (N,).
        runs: the starts of these episodes; None if they are 1, 2, ... in each.
    """

    def __init__(self, episodes: Ints, counts: Ints, runs: _Runs | None) -> None:
        self.episodes, self.counts = episodes, counts
        self._runs = runs
        self._firsts = np.cumsum(counts) - counts  # (N,) place of each episode's first start among all

    def steps(self, chosen: Ints, picks: Ints) -> Ints:
        """Return the steps of the starts of number `picks` in the episodes of number `chosen`, both int64 (B,)."""
        if self._runs is None:
            return picks + 1
        places = self._firsts[chosen] + picks
        first, begins = self._runs
        run = np.searchsorted(begins, places, side="right") - 1
        return first[run] + places - begins[run]


class Fillers:
    """Draws filler segments.

    Idle steps show nothing that must be remembered. If the task doesn't declare idle steps, all steps but an episode's
    first and last are idle, so that what is shown at the start or asked for at the end stays out.

    Args:
        episodes: the source of trajectories.
        segment_length: steps of a full segment.
        seed: not negative; it determines all that is drawn.
    """

    def __init__(self, episodes: Episodes, segment_length: int, seed: int) -> None:
        self._episodes = episodes
        self._lengths = episodes.lengths
        self._segment_length = segment_length
        self._seed = seed

    def draw(self, update: int, count: int, batch_size: int, rows: slice = slice(None)) -> tuple[Segment, ...]:
        """Return `count` full segments of idle steps; each batch element comes from an episode drawn at random.

        Args:
            update: the number of the update.
            count: number of segments.
            batch_size: batch elements of a segment.
            rows: the batch elements to return.

        Raises:
            UsageError: no episode has as many idle steps in a row as a segment.
        """
        starts = self._idle_starts
        if not len(starts.episodes):
            longest = self._lengths.max()
            raise UsageError(
                f"segment_length is {self._segment_length}, but no episode (the longest has {longest} "
                "steps) has as many idle steps in a row (those that the task declares, else all but the first and the "
                "last); shorten the segments or turn memory ageing off"
            )
        if count == 0:
            return ()
        generator = np.random.default_rng([self._seed, FILLERS, update])
        chosen = generator.integers(0, len(starts.episodes), (count, batch_size))
        picks = generator.integers(0, starts.counts[chosen])
        return tuple(map(self._segment, chosen[:, rows], picks[:, rows]))

    @property
    def exist(self) -> bool:
        """True if some episode has as many idle steps in a row as a segment; reads episodes up to the first of them."""
        if not self.are_declared:
            return len(self._idle_starts.episodes) > 0
        return any(len(self._starts(index, length)) for index, length in enumerate(self._lengths.tolist()))

    @cached_property
    def are_declared(self) -> bool:
        """True if the task declares idle steps."""
        span = self._episodes.span(0, 0, 1)
        return span.trajectory.idle is not None

    def _segment(self, chosen: Ints, picks: Ints) -> Segment:
        """Return the segment that begins at the idle start of number `pick` of each chosen episode with starts."""
        starts = self._idle_starts
        episodes = starts.episodes[chosen].tolist()
        first_steps = starts.steps(chosen, picks).tolist()
        spans = []
        for episode, start in zip(episodes, first_steps, strict=True):
            stop = start + self._segment_length
            spans.append(self._episodes.span(episode, start, stop))
        return collate(spans)

    @cached_property
    def _idle_starts(self) -> _IdleStarts:
        """The steps at which a full segment of idle steps begins."""
        if self.are_declared:
            return self._declared_starts()
        counts = np.maximum(self._lengths - self._segment_length - 1, 0)  # from step 1 on
        episodes = np.flatnonzero(counts)
        return _IdleStarts(episodes, counts[episodes], None)

    def _declared_starts(self) -> _IdleStarts:
        """Return the starts in the idle steps that the task declares, from every episode's labels."""
        counts = np.zeros_like(self._lengths)
        firsts, places = [], []
        before = 0  # starts of the episodes so far
        for index, length in enumerate(self._lengths.tolist()):
            starts = self._starts(index, length)
            begins = np.flatnonzero(np.diff(starts, prepend=-2) > 1)  # of its runs
            firsts.append(starts[begins])
            places.append(begins + before)
            counts[index] = len(starts)
            before += len(starts)
        episodes = np.flatnonzero(counts)
        runs = _Runs(np.concatenate(firsts), np.concatenate(places))
        return _IdleStarts(episodes, counts[episodes], runs)

    def _starts(self, index: int, steps: int) -> Ints:
        """Return the steps at which a full segment of idle steps begins, in an episode of so many steps."""
        span = self._episodes.span(index, 0, steps)
        idle: Bools = np.asarray(span.trajectory.idle)
        length = self._segment_length
        idle_before = np.append(0, np.cumsum(idle))  # (T + 1,)
        idle_ahead = idle_before[length:] - idle_before[:-length]
        return np.flatnonzero(idle_ahead == length)
