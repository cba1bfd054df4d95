"""Speed and memory of training, ours and the official code's."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from experiments.speed.official import Steps, counted, official, padded
from experiments.speed.sizes import OFFICIAL, OFFICIAL_TRAINING, OURS, REPLAY, SEGMENTS, TRAINING, Size
from experiments.speed.turns import Measure, Result, in_turns, peak_of, return_freed_blocks
from rmt_rl.acting.collect import collect
from rmt_rl.data.feed import make_feed
from rmt_rl.training.loop import Loop
from rmt_rl.training.segments import SegmentLearner

GRADIENTS = {TRAINING: "full", REPLAY: "replay"}
FEW = 8  # episodes that warm the official code up
POOL = 8  # batches that our feed draws together and sorts by length


class Training:
    """A learner on data that are all in memory, and the real steps of its batches."""

    def __init__(self, size: Size, gradient: str = "full") -> None:
        self.config = size.config(gradient=gradient)
        collect(self.config.env, self.config.env_options, size.episodes, seed=0)
        self.learner = SegmentLearner(self.config)
        self.store = self.learner.store
        for index in range(len(self.store)):
            self.store.episode(index)
        self.learner.start()
        self.folder = Path(tempfile.mkdtemp())
        self.feed = make_feed(self.store, self.config.data, size.segment_length, self.config.seed)

    def run(self, count: int, first: int = 0) -> float:
        """Make `count` updates from number `first` on; return their CPU seconds."""
        marks: list[float] = []

        def mark(update: int, metrics: dict[str, float]) -> None:
            marks.append(time.process_time())

        def should_stop() -> bool:
            if not marks:
                marks.append(time.process_time())
            return len(marks) > count

        self.learner.made = first
        Loop(self.learner, self.folder, self.config.schedule, {}).run(mark, should_stop)
        return marks[-1] - marks[0]

    def steps(self, updates: range) -> int:
        """Return the real steps of the batches of these updates."""
        return sum(self.feed.batch(update).steps for update in updates)

    def by_length(self) -> list[int]:
        """Return the updates of the first pool of batches, that of the shortest episodes first."""
        return sorted(range(POOL), key=self._steps_of)

    def _steps_of(self, update: int) -> int:
        return self.feed.batch(update).steps

    def speed(self, count: int) -> float:
        """Make the next updates; return real environment steps a CPU second."""
        first = self.learner.made
        seconds = self.run(count, first)
        return self.steps(range(first, first + count)) / seconds


class OfficialTraining:
    """The official code's training on the data of ours, in shuffled batches of whole segments, as its own loader's.

    Every segment costs the same, because padding is computed like real steps, and no gradient leaves the segment. So a
    repeat can be the first segments of a batch. Its real steps are those of a mean batch.
    """

    def __init__(self, checkout: Path, size: Size, ours: Training) -> None:
        self.official = official(checkout, size)
        shuffles = ours.config.data.model_copy(update={"bucket_batches": 1})
        self.feed = make_feed(ours.store, shuffles, size.segment_length, ours.config.seed)
        self.segment_length = size.segment_length
        self.segments = size.official_segments
        mean_length = float(ours.store.lengths.mean())
        self.real_steps = size.batch_size * mean_length * self.segments / SEGMENTS
        self.made = 0

    def batch(self) -> list[Steps]:
        """Return the segments of the next batch."""
        self.made += 1
        return padded(self.feed.batch(self.made), self.segment_length)

    def warm_up(self) -> None:
        """Train on the first segment of a few episodes."""
        self.official.train([_few(self.batch()[0])])

    def speed(self) -> float:
        """Train on the next batch; return real environment steps a CPU second."""
        segments = self.batch()[: self.segments]
        began = time.process_time()
        self.official.train(segments)
        return self.real_steps / (time.process_time() - began)


def _few(steps: Steps) -> Steps:
    assert steps.actions is not None
    return Steps(steps.states[:FEW], steps.actions[:FEW], steps.returns[:FEW])


def training(size: Size, checkout: Path | None) -> Result:
    """Measure real environment steps a CPU second of training, and the share of real steps in whole segments."""
    measures: dict[str, Measure] = {}
    parameters: dict[str, dict[str, int]] = {}
    for name, gradient in GRADIENTS.items():
        work = Training(size, gradient)
        *_, longest = work.by_length()
        work.run(1, longest)
        work.learner.made = 0
        measures[name] = partial(work.speed, size.updates)
        parameters[OURS] = counted(work.learner.model)
    if checkout:
        theirs = OfficialTraining(checkout, size, work)
        theirs.warm_up()
        parameters[OFFICIAL] = counted(theirs.official.model)
        measures[OFFICIAL_TRAINING] = theirs.speed
    real_share = float(work.store.lengths.mean()) / (SEGMENTS * size.segment_length)
    speeds = in_turns(measures, size.repeats)
    return {"speeds": speeds, "real_share": real_share, "parameters": parameters}


def memory_of_ours(size: Size, gradient: str) -> Result:
    """Measure the memory (MB) of an update on the longest of a pool's batches, above what is resident before it."""
    return_freed_blocks()
    work = Training(size, gradient)
    shortest, *_, longest = work.by_length()
    work.run(1, shortest)
    return {"mb": peak_of(partial(work.run, 1, longest))}


def memory_of_official(size: Size, checkout: Path) -> Result:
    """Measure the memory (MB) of the official code's first two segments of a batch; the second keeps the first."""
    return_freed_blocks()
    work = OfficialTraining(checkout, size, Training(size))
    work.warm_up()
    segments = work.batch()[:2]
    return {"mb": peak_of(partial(work.official.train, segments))}
