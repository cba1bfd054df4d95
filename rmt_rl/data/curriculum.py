"""A curriculum over lengths: one segment more whenever the present length is learnt.

RMT to two million tokens (arXiv 2304.11062), section 4.2: train on one segment until that converges, then on two, and
so on. Options are frozen and progress is a value, to be kept in a checkpoint as JSON (`model_dump`).
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from rmt_rl.config import Frozen


class Progress(Frozen):
    """Where a curriculum stands."""

    length: int = Field(ge=1, description="segments of a sequence at present")
    accuracy: float = Field(0.0, ge=0, le=1, description="running mean since this length began; 0 at its beginning")


class Curriculum(Frozen):
    """When to go on to longer sequences."""

    first: int = Field(1, ge=1, description="segments at the beginning")
    last: int = Field(7, ge=1, description="segments at the end")
    threshold: float = Field(0.95, gt=0, lt=1, description="running accuracy at which a length is learnt")
    smoothing: float = Field(0.9, ge=0, lt=1, description="share of the old in each new running mean")
    review: float = Field(0.0, ge=0, lt=1, description="share of the updates on any length up to the present one")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"first={self.first} must not be above last={self.last}")
        return self

    def begin(self) -> Progress:
        """The progress before the first update."""
        return Progress(length=self.first)

    def draw(self, progress: Progress, rng: np.random.Generator) -> int:
        """The length of the next update's sequences: the present one, or for review one of those up to it."""
        return int(rng.integers(1, progress.length + 1)) if rng.random() < self.review else progress.length

    def after(self, progress: Progress, length: int, accuracy: float) -> Progress:
        """The progress after an update on this length, on which this share of answers (0 to 1) was right.

        Shorter ones aren't counted. The running mean starts at 0: a length takes a few updates at the least, the more
        the smoother.
        """
        if length < progress.length:
            return progress
        mean = self.smoothing * progress.accuracy + (1 - self.smoothing) * accuracy
        if mean >= self.threshold and progress.length < self.last:
            return Progress(length=progress.length + 1)
        return Progress(length=progress.length, accuracy=min(1.0, mean))

    def finished(self, progress: Progress) -> bool:
        """Whether the last length is learnt too."""
        return progress.length >= self.last and progress.accuracy >= self.threshold
