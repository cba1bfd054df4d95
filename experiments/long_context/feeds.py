"""Feeds of the memory tasks: whole sequences of some segments, by a curriculum, or streams without end.

Batches follow from (seed, update) and from what the feed has learnt of the answers, which is saved with a run.

Dimensions: B sequences of a batch, L tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue
from torch import Tensor

from experiments.long_context.tasks import PLACES, Question, Task, TaskSequence
from rmt_rl.config import SavedState, validated
from rmt_rl.data.curriculum import Curriculum, CurriculumProgress
from rmt_rl.training.tokens import IGNORED, Right, TokenBatch, TokenFeed


class Sequences(TokenFeed):
    """Whole sequences from their beginning, as long as the curriculum says.

    Args:
        task: what is learnt.
        batch_size: B.
        seed: of all that is random.
        curriculum: how long sequences are.
        joined: give all segments as one, for a model without memory.
    """

    def __init__(self, task: Task, batch_size: int, seed: int, curriculum: Curriculum, joined: bool = False) -> None:
        self.task, self.batch_size, self.seed, self.joined = task, batch_size, seed, joined
        self.curriculum = curriculum
        self.progress = curriculum.begin()
        self.length = 0  # segments of the last batch

    def batch(self, update: int) -> TokenBatch:
        rng = np.random.default_rng([self.seed, update])
        self.length = self.curriculum.draw(self.progress, rng)
        sequences = [self.task.sequence(rng, self.length) for _ in range(self.batch_size)]
        questions = [sequence.question for sequence in sequences]
        segments = write_segments(self.task, rng, sequences, [0] * self.batch_size, self.length, questions)
        if self.joined:
            segments = (torch.cat(segments, 1),)
        fresh = torch.ones(self.batch_size, dtype=torch.bool)
        return TokenBatch(segments, question_labels(len(segments), answers(questions)), fresh, aside=True)

    def learn(self, update: int, outcome: Right) -> None:
        accuracy = float(answered(outcome).float().mean())
        self.progress = self.curriculum.after(self.progress, self.length, accuracy)

    def state(self) -> dict[str, JsonValue]:
        return {"curriculum": self.progress.model_dump()}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        self.progress = validated(_SavedSequences, state).curriculum

    def measures(self) -> dict[str, float]:
        return {"data/length": self.progress.length}

    @property
    def finished(self) -> bool:
        """True if the curriculum's last length is learnt."""
        return self.curriculum.finished(self.progress)


class _SavedSequences(SavedState):
    curriculum: CurriculumProgress


class SequencesThenStreams(TokenFeed):
    """Sequences by a curriculum until its last length is learnt, streams from then on.

    Streams alone hardly begin to learn: a question that comes a segment or more after the fact teaches nothing as long
    as questions in the fact's own segment aren't answered.
    """

    carries = True

    def __init__(self, sequences: Sequences, streams: Streams) -> None:
        self.sequences, self.streams = sequences, streams
        self.batch_size = streams.batch_size
        self.now: TokenFeed = sequences

    def batch(self, update: int) -> TokenBatch:
        self.now = self.streams if self.sequences.finished else self.sequences
        return self.now.batch(update)

    def learn(self, update: int, outcome: Right) -> None:
        self.now.learn(update, outcome)

    def state(self) -> dict[str, JsonValue]:
        return self.sequences.state() | self.streams.state()

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        self.sequences.restore(state, update)
        self.streams.restore(state, update)

    def measures(self) -> dict[str, float]:
        return self.sequences.measures() | self.streams.measures()

    def unreached(self) -> str | None:
        curriculum = self.sequences.curriculum
        if self.sequences.finished:
            return None
        return (
            f"threshold={curriculum.threshold}: the curriculum's last length, segments={curriculum.last}, wasn't "
            "learnt, so streams never began: give more --tokens, or a lower --threshold"
        )


class Streams(TokenFeed):
    """Sequences that go on from update to update for hundreds of segments, their state carried without gradient.

    An update runs 2 to 4 segments with gradient and asks at the end of the last. The last segment is read on the side:
    the sequence goes on from the state before it, and holds no question. So an answer comes from a memory as old as its
    sequence, though gradients reach a few segments only.

    While the task's question can't be answered yet, a question is asked that a part of the facts answers, if there is
    one. Without such questions, *reason* had no lesson in keeping two places until a holder comes, and kept them badly.

    New sequences take the place of others at random, at a rate of each batch element's own. If all were old, a model
    that answers everything would hardly be shown a fact any more, and forget how to read facts. All rates rise with the
    share of *all* answers that were wrong of late, since memories that have lost their facts teach nothing. Whether a
    sequence's own answer was right must not matter. If only sequences with wrong answers are replaced, those that were
    right by luck stay, and a memory that holds anything at all, such as a trait of the first filler, comes to tell
    their answers. Such streams looked as if learnt (0.45 to 0.70 right), and tests stayed at chance.

    Args:
        task: what is learnt.
        batch_size: B; every six batch elements, one for each answer, share a rate.
        seed: of all that is random.
        depths: fewest and most segments of an update.
        reset: lowest and highest probability that a sequence is replaced after an update, when all answers are right.
            The rates of others are spread between them, evenly on a logarithmic scale. Facts come within 1/probability
            segments.
        reset_wrong: added to these probabilities when all answers are wrong.
    """

    carries = True

    def __init__(
        self,
        task: Task,
        batch_size: int,
        seed: int,
        depths: tuple[int, int],
        reset: tuple[float, float],
        reset_wrong: float,
    ) -> None:
        self.task, self.batch_size, self.seed, self.depths = task, batch_size, seed, depths
        rates = np.geomspace(*reset, num=-(-batch_size // len(PLACES)))
        self.reset, self.reset_wrong = rates.repeat(len(PLACES))[:batch_size], reset_wrong
        self.accuracy = 0.0  # running mean over all answers
        self.ages = [0] * batch_size  # segments that a sequence's state has seen
        self.numbers = list(range(batch_size))  # of the sequences; with the waits they decide their contents
        self.next_number = batch_size
        self.waits: list[float] = (1 / self._rates()).tolist()  # segments until a fact of theirs comes, at most
        self._draw_sequences()
        self.asked = np.zeros(batch_size, bool)  # in the last batch
        self.depth = 0  # segments of the last batch

    def batch(self, update: int) -> TokenBatch:
        rng = np.random.default_rng([self.seed, update])
        fewest, most = self.depths
        self.depth = int(rng.integers(fewest, most, endpoint=True))
        questions = []
        for index, (sequence, age) in enumerate(zip(self.sequences, self.ages, strict=True)):
            answerable = sequence.answerable(age + self.depth)
            self.asked[index] = bool(answerable)
            questions.append(_question(sequence.question, answerable, rng))
        segments = write_segments(self.task, rng, self.sequences, self.ages, self.depth, questions)
        labels = answers(questions).masked_fill(~torch.from_numpy(self.asked), IGNORED)
        fresh = torch.tensor([age == 0 for age in self.ages])
        return TokenBatch(segments, question_labels(self.depth, labels), fresh, aside=True)

    def learn(self, update: int, outcome: Right) -> None:
        rng = np.random.default_rng([self.seed, update, 1])
        if self.asked.any():
            right = answered(outcome).numpy()[self.asked]
            self.accuracy = 0.9 * self.accuracy + 0.1 * float(right.mean())
        rates = self._rates()
        replaced = rng.random(self.batch_size) < rates
        for index in range(self.batch_size):
            self.ages[index] += self.depth - 1
            if replaced[index]:
                self._replace(index, longest_wait=1 / rates[index])

    def _replace(self, index: int, longest_wait: float) -> None:
        """Put a new sequence, with the same answer, in the place of an old one."""
        self.numbers[index], self.ages[index], self.waits[index] = self.next_number, 0, longest_wait
        self.next_number += 1
        self.sequences[index] = self._sequence(index)

    def state(self) -> dict[str, JsonValue]:
        saved = StreamsState(
            numbers=tuple(self.numbers),
            next_number=self.next_number,
            ages=tuple(self.ages),
            waits=tuple(self.waits),
            accuracy=self.accuracy,
        )
        return {"streams": saved.model_dump(mode="json")}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        saved = validated(_SavedStreams, state).streams
        self.numbers, self.next_number = list(saved.numbers), saved.next_number
        self.ages, self.waits, self.accuracy = list(saved.ages), list(saved.waits), saved.accuracy
        self._draw_sequences()

    def measures(self) -> dict[str, float]:
        return {"data/age": float(np.mean(self.ages)), "data/asked": float(self.asked.mean())}

    def _draw_sequences(self) -> None:
        self.sequences = [self._sequence(index) for index in range(self.batch_size)]

    def _sequence(self, index: int) -> TaskSequence:
        rng = np.random.default_rng([self.seed, 0, self.numbers[index], 2])
        return self.task.stream(rng, index % len(PLACES), self.waits[index])

    def _rates(self) -> npt.NDArray[np.float64]:
        """Return the probability of each sequence to be replaced."""
        rates: npt.NDArray[np.float64] = self.reset + (1 - self.accuracy) * self.reset_wrong
        return rates


class StreamsState(SavedState):
    """The sequences of streams, and how well all answer."""

    numbers: tuple[int, ...]
    next_number: int
    ages: tuple[int, ...]
    waits: tuple[float, ...]
    accuracy: float


class _SavedStreams(SavedState):
    streams: StreamsState


def _question(of_task: Question, answerable: Sequence[Question], rng: np.random.Generator) -> Question:
    """Return the task's question if it can be answered, or if none can; else one that a part of the facts answers."""
    if not answerable or of_task in answerable:
        return of_task
    return answerable[int(rng.integers(len(answerable)))]


def write_segments(
    task: Task,
    rng: np.random.Generator,
    sequences: Sequence[TaskSequence],
    first: Sequence[int],
    count: int,
    questions: Sequence[Question],
) -> tuple[Tensor, ...]:
    """Return `count` segments, int64 (B, L) each, from number `first[b]` on; the last one ends in the questions."""
    segments = []
    for index in range(count):
        numbers = [number + index for number in first]
        asked = questions if index == count - 1 else None
        segments.append(torch.from_numpy(task.segment_batch(rng, sequences, numbers, asked)))
    return tuple(segments)


def answers(questions: Sequence[Question]) -> Tensor:
    """Return the right answers as indices of `PLACES`, int64 (B,)."""
    return torch.tensor([question.answer for question in questions])


def question_labels(segments: int, labels_B: Tensor) -> tuple[Tensor, ...]:
    """Return the labels of a batch whose last token alone has a label."""
    labels_B1 = labels_B[:, None]
    no_labels_B0 = labels_B1[:, :0]
    return (*[no_labels_B0] * (segments - 1), labels_B1)


def answered(outcome: Right) -> Tensor:
    """Return the sequences whose question was answered right, bool (B,)."""
    right_B1 = outcome[-1]
    return right_B1[:, 0]
