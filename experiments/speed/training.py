"""Speed of the training loop."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from experiments.speed.measures import Effort, Result, repeats_of
from experiments.speed.sizes import SEGMENTS, Size
from rmt_rl.acting.collect import collect
from rmt_rl.data.feed import make_feed
from rmt_rl.training.loop import Loop
from rmt_rl.training.segments import SegmentLearner


def collected(size: Size, effort: Effort) -> Result:
    """Collect the data set, so that its making is in no other measure."""
    config = size.config(effort.episodes)
    return {"dataset": collect(config.env, config.env_options, effort.episodes, seed=0)}


class Training:
    """A learner on data that are all in memory, and the real steps of its batches."""

    def __init__(self, size: Size, effort: Effort, gradient: str = "full") -> None:
        collected(size, effort)
        self.config = size.config(effort.episodes, gradient=gradient)
        self.learner = SegmentLearner(self.config)
        self.store = self.learner.store
        for index in range(len(self.store)):
            self.store.episode(index)
        self.learner.start()
        self.folder = Path(tempfile.mkdtemp())
        self.feed = make_feed(self.store, self.config.data, size.segment_length, self.config.seed)
        mean_length = float(self.store.lengths.mean())
        self.real_share = mean_length / (SEGMENTS * size.segment_length)

    def run(self, updates: int) -> list[float]:
        """Make the updates 0, 1, ...; return the CPU times (s) at the start and after each."""
        marks: list[float] = []

        def mark(update: int, metrics: dict[str, float]) -> None:
            marks.append(time.process_time())

        def should_stop() -> bool:
            if not marks:
                marks.append(time.process_time())
            return len(marks) > updates

        self.learner.made = 0
        Loop(self.learner, self.folder, self.config.schedule, {}).run(mark, should_stop)
        return marks

    def steps(self, updates: range) -> int:
        """Return the real steps of the batches of these updates."""
        return sum(self.feed.batch(update).steps for update in updates)

    def padding(self, updates: range) -> float:
        """Return the share of these batches' computed steps that is padding."""
        computed = 0
        for update in updates:
            for segment in self.feed.batch(update).segments:
                computed += segment.returns_to_go.numel()
        return 1 - self.steps(updates) / computed


def training(size: Size, effort: Effort, gradient: str) -> Result:
    """Measure real environment steps a CPU second of training: batch, forward, backward, clipping, AdamW."""
    work = Training(size, effort, gradient)
    work.run(1)
    repeats = repeats_of(size, effort)
    marks = work.run(repeats * effort.updates)
    speeds = []
    for repeat in range(repeats):
        first = repeat * effort.updates
        last = first + effort.updates
        steps = work.steps(range(first, last))
        speeds.append(steps / (marks[last] - marks[first]))
    padding = work.padding(range(effort.updates))
    return {"steps_per_second": speeds, "real_share": work.real_share, "padding": padding}
