"""A curriculum over lengths: one segment more whenever the present length is learnt.

Source: RMT to two million tokens (arXiv 2304.11062), section 4.2: train on one segment until convergence, then on two,
and so on. Options are frozen, and progress is a value that a checkpoint holds as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from pydantic import Field, JsonValue, model_validator

from rmt_rl.config import Frozen, SavedState, validated
from rmt_rl.data.feed import Outcome, SegmentFeed
from rmt_rl.data.feeds.streams import StreamFeed
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.errors import UsageError


class CurriculumProgress(Frozen):
    """The present length of a curriculum, and the accuracy at this length."""

    length: int = Field(ge=1, description="segments of a sequence at present")
    accuracy: float = Field(0.0, ge=0, le=1, description="running mean since this length began, from 0 on")


class Curriculum(Frozen):
    """Options for going on to longer sequences."""

    first: int = Field(1, ge=1, description="segments at the beginning")
    last: int = Field(7, ge=1, description="segments at the end")
    threshold: float = Field(0.95, gt=0, lt=1, description="running accuracy at which a length is learnt")
    smoothing: float = Field(0.9, ge=0, lt=1, description="share of the old value in each new running mean")
    review: float = Field(
        0.0, ge=0, lt=1, description="share of the updates whose length is drawn from 1 to the present one"
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"first={self.first} must not be above last={self.last}")
        return self

    def begin(self) -> CurriculumProgress:
        """Return the progress before the first update."""
        return CurriculumProgress(length=self.first)

    def draw(self, progress: CurriculumProgress, rng: np.random.Generator) -> int:
        """Return the length of the next sequences: the present one, or for review any length up to the present one."""
        is_review = rng.random() < self.review
        if not is_review:
            return progress.length
        drawn = rng.integers(1, progress.length + 1)
        return int(drawn)

    def after(self, progress: CurriculumProgress, length: int, accuracy: float) -> CurriculumProgress:
        """Return the progress after an update on sequences of this length, with this share (0 to 1) of right answers.

        Updates on sequences shorter than the present length aren't counted. The running mean starts at 0, so each
        length takes at least a few updates, and more with more smoothing.
        """
        present = progress.length
        if length < present:
            return progress
        weight = 1 - self.smoothing
        mean = self.smoothing * progress.accuracy + weight * accuracy
        if mean >= self.threshold and present < self.last:
            return CurriculumProgress(length=present + 1)
        return CurriculumProgress(length=present, accuracy=min(1.0, mean))

    def finished(self, progress: CurriculumProgress) -> bool:
        """Return True once the last length is learnt."""
        is_last = progress.length >= self.last
        return is_last and progress.accuracy >= self.threshold


class CurriculumFeed(SegmentFeed):
    """Batches of another feed, cut to their first segments. The curriculum gives the number of segments.

    Streams wait until the last length is learnt, and are never cut.
    """

    def __init__(self, feed: SegmentFeed, curriculum: Curriculum) -> None:
        self._feed = feed
        self._curriculum = curriculum
        self.progress = curriculum.begin()
        self._streams = feed if isinstance(feed, StreamFeed) else None
        if self._streams:
            self._streams.wait()
        elif feed.carries:
            raise UsageError(
                f"curriculum={curriculum.threshold} cuts batches to their first segments, but this feed carries states "
                "from update to update: choose curriculum=0, or feed='streams', which waits for the curriculum"
            )
        self.carries = feed.carries

    def batch(self, update: int) -> Batch:
        batch = self._feed.batch(update)
        if self._is_streaming:
            return batch
        return first_segments(batch, self.progress.length)

    def uncut(self, update: int) -> Batch:
        return self._feed.batch(update)

    def learn(self, update: int, outcome: Outcome) -> None:
        self._feed.learn(update, outcome)
        if self._is_streaming:
            return
        self.progress = self._curriculum.after(self.progress, outcome.segments, outcome.accuracy)
        if self._streams and self._curriculum.finished(self.progress):
            self._streams.begun = update + 1

    @property
    def _is_streaming(self) -> bool:
        """True once streams have begun."""
        return self._streams is not None and self._streams.begun is not None

    def state(self) -> dict[str, JsonValue]:
        return {"curriculum": self.progress.model_dump()} | self._feed.state()

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        saved = validated(_Saved, state)
        progress = saved.curriculum or self.progress
        length = min(progress.length, self._curriculum.last)
        self.progress = progress.model_copy(update={"length": length})
        self._feed.restore(state, update)

    def measures(self) -> dict[str, float]:
        return self._feed.measures()

    def unread(self) -> str | None:
        return self._feed.unread()

    def unreached(self) -> str | None:
        if self._streams is None or self._is_streaming:
            return self._feed.unreached()
        curriculum = self._curriculum
        return (
            f"curriculum={curriculum.threshold}: the last length, segments={curriculum.last}, wasn't "
            "learnt, so streams never began: give more --updates, or a lower --curriculum"
        )


class _Saved(SavedState):
    curriculum: CurriculumProgress | None = None  # None if the run had no curriculum until now


def first_segments(batch: Batch, count: int) -> Batch:
    """Return the first `count` segments of a batch, or more if the batch's first decisive step comes later.

    A curriculum judges by decisive actions if a length is learnt, so a batch must hold some.
    """
    for length in range(count, len(batch.segments)):
        first = batch.first(length)
        if any(map(_can_be_judged, first.segments)):
            return first
    return batch


def _can_be_judged(segment: Segment) -> bool:
    """Return True if a segment holds a real decisive step, or if the task declares no decisive steps."""
    if segment.decisive is None:
        return True
    real = segment.decisive & segment.mask
    return bool(real.any())
