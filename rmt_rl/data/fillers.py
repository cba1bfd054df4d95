"""Filler segments: idle steps from the middles of episodes, through which memory ageing carries memories."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from rmt_rl.data.feed import FILLERS, Episodes, Ints
from rmt_rl.data.segment import Segment, Span, collate
from rmt_rl.errors import UsageError


class Fillers:
    """Draws filler segments.

    Idle steps show nothing that must be remembered. If the task doesn't tell which steps are idle, all but an
    episode's first and last are: what is shown at a start or asked for at an end stays out.

    Args:
        episodes: the source of trajectories.
        segment_length: steps of a full segment.
        seed: not negative; everything drawn follows from it.
    """

    def __init__(self, episodes: Episodes, segment_length: int, seed: int) -> None:
        self._episodes = episodes
        self._lengths = episodes.lengths
        self._segment_length = segment_length
        self._seed = seed

    def draw(self, update: int, count: int, batch_size: int) -> tuple[Segment, ...]:
        """Return `count` full segments of idle steps, each batch element of each from an episode drawn at random.

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
        generator = np.random.default_rng([self._seed, FILLERS, update])
        episodes = generator.choice(list(starts), (count, batch_size)).tolist()
        choices = [[len(starts[episode]) for episode in row] for row in episodes]
        picks = generator.integers(0, choices or 1).tolist()
        rows = zip(episodes, picks, strict=True) if count else ()
        return tuple(self._segment(*row) for row in rows)

    def _segment(self, episodes: list[int], picks: list[int]) -> Segment:
        spans = []
        for episode, pick in zip(episodes, picks, strict=True):
            start = int(self._idle_starts[episode][pick])
            spans.append(self._episodes.span(episode, start, start + self._segment_length))
        return collate(spans)

    @cached_property
    def _idle_starts(self) -> dict[int, Ints]:
        """The steps at which a segment of idle steps begins, by episode; episodes without any are left out."""
        found = {}
        for index in range(len(self._lengths)):
            before = np.concatenate([[0], np.cumsum(self._idle(index))])
            idle_ahead = before[self._segment_length :] - before[: -self._segment_length]
            starts = np.flatnonzero(idle_ahead == self._segment_length)
            if len(starts):
                found[index] = starts
        return found

    def _idle(self, index: int) -> npt.NDArray[np.bool_]:
        """Return which steps of an episode are idle, bool (T,); the episode is read only if its task declares them."""
        length = int(self._lengths[index])
        if self._declared:
            return np.asarray(self._episodes.span(index, 0, length).trajectory.idle)
        steps = np.arange(length)
        return (steps > 0) & (steps < length - 1)

    @cached_property
    def _declared(self) -> bool:
        span: Span = self._episodes.span(0, 0, 1)
        return span.trajectory.idle is not None
