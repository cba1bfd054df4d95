"""What each update trains on: sequences of some segments (all at once, or by a curriculum), or streams without end.

A feed is asked for a batch and told which answers were right. Randomness follows from (seed, update), and what a feed
carries besides is a JSON value, so a run can be resumed.

Dimensions: B lanes, L tokens of a segment.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from experiments.long_context.tasks import PLACES, Lane, Question, Task
from rmt_rl.data.curriculum import Curriculum, CurriculumProgress


class Batch(NamedTuple):
    """Segments of lanes, of which the last ends in the question.

    Attributes:
        segments: int64 (B, L) each.
        answers_B: int64, indices of `tasks.PLACES`.
        asked_B: bool, whose facts have come; the others' answers count nothing.
        fresh_B: bool, whose sequence begins with this batch; the others go on from the state they were left in.
    """

    segments: tuple[Tensor, ...]
    answers_B: Tensor
    asked_B: Tensor
    fresh_B: Tensor


class Feed(Protocol):
    """See the module."""

    def batch(self, update: int) -> Batch:
        """The batch of an update, counted from 0."""

    def learn(self, update: int, right_B: Tensor) -> None:
        """What the update made of it: bool, whose answers were right."""

    def state(self) -> Any:
        """What to resume with, as JSON."""

    def restore(self, state: Any) -> None:
        """Go on from a `state`."""

    def measures(self) -> dict[str, float]:
        """What to log."""


class Sequences:
    """Whole sequences from their beginning, as long as the curriculum says."""

    def __init__(self, task: Task, lanes: int, seed: int, curriculum: Curriculum) -> None:
        self.task, self.lanes, self.seed, self.curriculum = task, lanes, seed, curriculum
        self.progress, self.length = curriculum.begin(), 0

    def batch(self, update: int) -> Batch:
        rng = np.random.default_rng([self.seed, update])
        self.length = self.curriculum.draw(self.progress, rng)
        lanes = [self.task.sequence(rng, self.length) for _ in range(self.lanes)]
        questions = [lane.question for lane in lanes]
        segments = [
            self.task.segment_batch(rng, lanes, [index] * self.lanes, questions if index == self.length - 1 else None)
            for index in range(self.length)
        ]
        everywhere = torch.ones(self.lanes, dtype=torch.bool)
        return Batch(tuple(map(torch.from_numpy, segments)), answers(questions), everywhere, everywhere)

    def learn(self, update: int, right_B: Tensor) -> None:
        self.progress = self.curriculum.after(self.progress, self.length, float(right_B.float().mean()))

    def state(self) -> Any:
        return self.progress.model_dump()

    def restore(self, state: Any) -> None:
        self.progress = CurriculumProgress.model_validate(state)

    def measures(self) -> dict[str, float]:
        return {"length": self.progress.length}

    @property
    def finished(self) -> bool:
        """Whether the curriculum's last length is learnt."""
        return self.curriculum.finished(self.progress)


class SequencesThenStreams:
    """Sequences by a curriculum until its last length is learnt, streams from then on.

    Streams alone hardly begin to learn: a question that comes a segment or more after the fact teaches nothing as long
    as questions in the fact's own segment aren't answered.
    """

    def __init__(self, sequences: Sequences, streams: Streams) -> None:
        self.sequences, self.streams = sequences, streams
        self.now: Feed = sequences

    def batch(self, update: int) -> Batch:
        self.now = self.streams if self.sequences.finished else self.sequences
        return self.now.batch(update)

    def learn(self, update: int, right_B: Tensor) -> None:
        self.now.learn(update, right_B)

    def state(self) -> Any:
        return {"sequences": self.sequences.state(), "streams": self.streams.state()}

    def restore(self, state: Any) -> None:
        self.sequences.restore(state["sequences"])
        self.streams.restore(state["streams"])

    def measures(self) -> dict[str, float]:
        return self.sequences.measures() | self.streams.measures()


class Streams:
    """Lanes that go on from update to update, their state carried along without gradient, for hundreds of segments.

    An update runs 2 to 4 segments with gradient and asks at the end of the last. That one is asked on the side: the
    lane goes on from the state before it, and its sequence holds no question. So an answer comes from a memory as old
    as its lane, though gradients reach a few segments only.

    While the task's question can't be answered yet, one is asked that a part of the facts tells, if there is one:
    *reason* had no lesson otherwise in keeping two places until a holder comes, and kept them badly.

    Lanes begin anew at random, each at a rate of its own: without young lanes among the old ones, whoever answers all
    is hardly shown a fact any more, and forgets how to read them. All rates rise with the share of *all* answers that
    were wrong of late: memories that have lost their facts teach nothing. Whether a lane's own answer was right must
    not matter: where wrong lanes are replaced, lanes that were right by luck stay, and a memory that holds anything at
    all, such as a trait of the first filler, comes to tell their answers. Such streams looked as if learnt (.45 to .70
    right), and tests stayed at chance.

    Args:
        task: what is learnt.
        lanes: B; every six of them, one an answer, have a rate.
        seed: of all that is random.
        depths: fewest and most segments of an update.
        reset: lowest and highest probability for a lane to begin anew after an update, when all answers are right;
            others' are spread between them, evenly on a logarithmic scale. Facts come within 1/probability segments.
        reset_wrong: what is added to it when all are wrong.
    """

    def __init__(
        self,
        task: Task,
        lanes: int,
        seed: int,
        depths: tuple[int, int],
        reset: tuple[float, float],
        reset_wrong: float,
    ) -> None:
        self.task, self.seed, self.depths = task, seed, depths
        groups = np.geomspace(*reset, num=-(-lanes // len(PLACES)))
        self.reset, self.reset_wrong = groups.repeat(len(PLACES))[:lanes], reset_wrong
        self.accuracy = 0.0
        self.ages = [0] * lanes  # segments that a lane's state has seen
        self.numbers, self.next = list(range(lanes)), lanes  # of lanes' sequences, which follow from them and the waits
        self.waits = (1 / self._rates()).tolist()  # segments until a fact of theirs comes, at most
        self.lanes = [self._lane(index) for index in range(lanes)]
        self.asked = np.zeros(lanes, bool)
        self.depth = 0

    def batch(self, update: int) -> Batch:
        rng = np.random.default_rng([self.seed, update])
        self.depth = int(rng.integers(self.depths[0], self.depths[1], endpoint=True))
        answerable = [lane.answerable(age + self.depth) for lane, age in zip(self.lanes, self.ages, strict=True)]
        questions = [
            lane.question if not some or lane.question in some else some[rng.integers(len(some))]
            for lane, some in zip(self.lanes, answerable, strict=True)
        ]
        segments = [
            self.task.segment_batch(
                rng, self.lanes, [age + index for age in self.ages], questions if index == self.depth - 1 else None
            )
            for index in range(self.depth)
        ]
        self.asked = np.array([bool(some) for some in answerable])
        fresh = torch.tensor([age == 0 for age in self.ages])
        return Batch(tuple(map(torch.from_numpy, segments)), answers(questions), torch.from_numpy(self.asked), fresh)

    def learn(self, update: int, right_B: Tensor) -> None:
        rng = np.random.default_rng([self.seed, update, 1])
        if self.asked.any():
            self.accuracy = 0.9 * self.accuracy + 0.1 * float(right_B.numpy()[self.asked].mean())
        rates = self._rates()
        resets = rng.random(len(self.lanes)) < rates
        for index, reset in enumerate(resets):
            self.ages[index] += self.depth - 1
            if reset:
                self.numbers[index], self.ages[index], self.waits[index] = self.next, 0, 1 / rates[index]
                self.lanes[index] = self._lane(index)
                self.next += 1

    def state(self) -> Any:
        names = ("numbers", "ages", "waits", "next", "accuracy")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Any) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.lanes = [self._lane(index) for index in range(len(self.numbers))]

    def measures(self) -> dict[str, float]:
        return {"age": float(np.mean(self.ages)), "asked": float(self.asked.mean())}

    def _lane(self, index: int) -> Lane:
        rng = np.random.default_rng([self.seed, 0, self.numbers[index], 2])
        return self.task.stream(rng, index % len(PLACES), self.waits[index])

    def _rates(self) -> npt.NDArray[np.float64]:
        """Probability of each lane to begin anew."""
        return self.reset + (1 - self.accuracy) * self.reset_wrong


def answers(questions: list[Question]) -> Tensor:
    """The right answers, int64 (B,)."""
    return torch.tensor([question.answer for question in questions])
