"""Filler segments: idle steps from the middles of episodes, through which memory ageing carries memories."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rmt_rl.data.feed import FILLERS, Episodes, Ints
from rmt_rl.data.segment import Segment, collate
from rmt_rl.errors import UsageError

Bools: TypeAlias = npt.NDArray[np.bool_]


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

    def draw(self, update: int, count: int, batch_size: int) -> tuple[Segment, ...]:
        """Return `count` full segments of idle steps; each batch element comes from an episode drawn at random.

        Raises:
            UsageError: no episode has as many idle steps in a row as a segment.
        """
        starts = self._idle_starts
        if not starts:
            longest = self._lengths.max()
            raise UsageError(
                f"segment_length is {self._segment_length}, but no episode (the longest has {longest} "
                "steps) has as many idle steps in a row (those that the task declares, else all but the first and the "
                "last); shorten the segments or turn memory ageing off"
            )
        if count == 0:
            return ()
        generator = np.random.default_rng([self._seed, FILLERS, update])
        episodes = generator.choice(list(starts), (count, batch_size)).tolist()
        choices = []
        for row in episodes:
            choices.append([len(starts[episode]) for episode in row])
        picks = generator.integers(0, choices).tolist()
        return tuple(map(self._segment, episodes, picks))

    def _segment(self, episodes: list[int], picks: list[int]) -> Segment:
        """Return the segment that begins at the idle start of number `pick` of each episode."""
        spans = []
        for episode, pick in zip(episodes, picks, strict=True):
            starts = self._idle_starts[episode]
            start = int(starts[pick])
            stop = start + self._segment_length
            spans.append(self._episodes.span(episode, start, stop))
        return collate(spans)

    @cached_property
    def _idle_starts(self) -> dict[int, Ints]:
        """The steps at which a full segment of idle steps begins, by episode; episodes without any are left out."""
        found = {}
        for index in range(len(self._lengths)):
            idle = self._idle(index)
            starts = self._starts(idle)
            if len(starts):
                found[index] = starts
        return found

    def _starts(self, idle: Bools) -> Ints:
        """Return the steps at which a full segment of idle steps begins, from `idle` (T,)."""
        length = self._segment_length
        idle_before = np.append(0, np.cumsum(idle))  # (T + 1,)
        idle_ahead = idle_before[length:] - idle_before[:-length]
        return np.flatnonzero(idle_ahead == length)

    def _idle(self, index: int) -> Bools:
        """Return True for the idle steps of an episode, bool (T,); read it only if its task declares idle steps."""
        length = int(self._lengths[index])
        if self._task_declares_idle:
            span = self._episodes.span(index, 0, length)
            return np.asarray(span.trajectory.idle)
        steps = np.arange(length)
        last = length - 1
        return (steps > 0) & (steps < last)

    @cached_property
    def _task_declares_idle(self) -> bool:
        """True if the task declares idle steps."""
        span = self._episodes.span(0, 0, 1)
        return span.trajectory.idle is not None
