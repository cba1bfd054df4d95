"""The paper's three tasks: facts hidden in text, and one question at the end, whose answer is one word.

RMT to two million tokens (arXiv 2304.11062), section 4: *memorise* (a fact at the very start), *detect* (a fact at any
place) and *reason* (two facts at any places and in any order, and the question needs both). Facts and questions are
ours, in the manner of bAbI (arXiv 1502.05698).

Dimensions: B sequences of a batch, L tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments.long_context.texts import Ids, Part, Text, vocabulary

NAMES = ("mary", "john", "daniel", "sandra")
PLACES = ("kitchen", "garden", "office", "bathroom", "hallway", "bedroom")  # the answers
OBJECTS = ("apple", "football", "milk")
CHANCE = 1 / len(PLACES)
TaskName = Literal["memorise", "detect", "reason"]
_WORDS = (*NAMES, *PLACES, *OBJECTS, "went", "to", "took", "the", "and", "where", "is", ".", "?")


class Question(NamedTuple):
    """A question.

    Attributes:
        text: its words.
        answer: an index of `PLACES`.
        facts: indices of the story's facts that tell the answer.
    """

    text: str
    answer: int
    facts: tuple[int, ...]


class Story(NamedTuple):
    """The facts of a sequence, and its questions: the task's own first, then those that a part of the facts answers."""

    facts: tuple[str, ...]
    questions: tuple[Question, ...]


class TaskSequence(NamedTuple):
    """A sequence: its story, and the number of the segment that holds each fact."""

    story: Story
    segments: tuple[int, ...]

    @property
    def question(self) -> Question:
        """The task's question."""
        return self.story.questions[0]

    def facts_in(self, number: int) -> list[str]:
        """Return the facts that the segment of this number holds."""
        placed = zip(self.story.facts, self.segments, strict=True)
        return [fact for fact, segment in placed if segment == number]

    def answerable(self, segments: int) -> list[Question]:
        """Return the questions that can be answered at the end of so many segments."""
        told = {fact for fact, segment in enumerate(self.segments) if segment < segments}
        return [question for question in self.story.questions if told.issuperset(question.facts)]


def one_fact(rng: np.random.Generator, answer: int) -> Story:
    """Return a story of one person who went to a place."""
    name = rng.choice(NAMES)
    return Story((_went(name, answer) + " .",), (_where(name, answer, 0),))


def two_facts(rng: np.random.Generator, answer: int) -> Story:
    """Return a story of who took a thing, and where this person and another one went.

    Either fact alone leaves the thing's place open. A model that knows the second fact only can guess one of its two
    places, and is right half the time.
    """
    holder, other = rng.choice(NAMES, 2, replace=False)
    elsewhere = int(rng.choice([place for place in range(len(PLACES)) if place != answer]))
    thing = rng.choice(OBJECTS)
    first, second = rng.permutation([_went(holder, answer), _went(other, elsewhere)])
    facts = (f"{holder} took the {thing} .", f"{first} and {second} .")
    questions = (
        _where(f"the {thing}", answer, 0, 1),
        _where(holder, answer, 1),
        _where(other, elsewhere, 1),
    )
    return Story(facts, questions)


def _went(name: str, place: int) -> str:
    return f"{name} went to the {PLACES[place]}"


def _where(what: str, answer: int, *facts: int) -> Question:
    return Question(f"where is {what} ?", answer, facts)


STORIES: dict[TaskName, Callable[[np.random.Generator, int], Story]] = {
    "memorise": one_fact,
    "detect": one_fact,
    "reason": two_facts,
}


class Task:
    """Draws sequences of a task, and writes their segments.

    Args:
        name: which task.
        part: the part of the texts that the filler is from.
        segment: L, the tokens of a segment; facts and question take the place of filler.
        words: the vocabulary of the model that is to read it; None for a new one, by this Python's texts.
    """

    def __init__(self, name: TaskName, part: Part, segment: int, words: Sequence[str] | None = None) -> None:
        self.name, self.segment = name, segment
        self.vocabulary = tuple(words) if words else vocabulary(_WORDS)
        self.text = Text(part, self.vocabulary, frozenset((*NAMES, *PLACES, *OBJECTS)))
        self._ids = {word: number for number, word in enumerate(self.vocabulary)}
        self.answers: Ids = self.ids(PLACES)

    def ids(self, words: Sequence[str]) -> Ids:
        """Return the ids of words."""
        return np.array([self._ids[word] for word in words])

    def sequence(self, rng: np.random.Generator, segments: int) -> TaskSequence:
        """Return a sequence whose facts come within the first `segments`, each in a segment drawn uniformly."""
        story = STORIES[self.name](rng, int(rng.integers(len(PLACES))))
        count = 1 if self.name == "memorise" else segments
        drawn = rng.integers(count, size=len(story.facts))
        return TaskSequence(story, tuple(drawn.tolist()))

    def stream(self, rng: np.random.Generator, answer: int, longest_wait: float) -> TaskSequence:
        """Return an endless sequence: its facts come in random order, each after 0 to `longest_wait` segments.

        Waits are log-uniform: most are short, so that little time passes without a question.
        """
        story = STORIES[self.name](rng, answer)
        longest_wait = 0.0 if self.name == "memorise" else longest_wait
        logarithms = rng.uniform(0, np.log(longest_wait + 1), size=len(story.facts))
        waits = np.exp(logarithms).astype(int) - 1
        segments = rng.permutation(np.cumsum(waits))
        return TaskSequence(story, tuple(segments.tolist()))

    def segment_batch(
        self,
        rng: np.random.Generator,
        sequences: Sequence[TaskSequence],
        numbers: Sequence[int],
        questions: Sequence[Question] | None = None,
    ) -> Ids:
        """Return segment `numbers[b]` (from 0) of each sequence, ids (B, L).

        Args:
            rng: draws the filler and the places of facts.
            sequences: the sequences.
            numbers: the number of the segment, for each sequence.
            questions: the question that each segment ends in; None: segments end in filler.
        """
        tokens = self.text.windows(rng, len(sequences), self.segment)
        for index, sequence in enumerate(sequences):
            question = questions[index].text if questions else ""
            self._write(rng, tokens[index], sequence.facts_in(numbers[index]), question)
        return tokens

    def _write(self, rng: np.random.Generator, row: Ids, facts: Sequence[str], question: str) -> None:
        """Put sentences in place of filler: facts in random order at places that don't overlap, the question last."""
        asked = self.ids(question.split())
        written = [self.ids(facts[index].split()) for index in rng.permutation(len(facts))]
        filler = len(row) - len(asked) - sum(map(len, written))  # tokens of it that stay
        if self.name == "memorise":
            before = np.zeros(len(facts), int)
        else:
            before = np.sort(rng.integers(filler + 1, size=len(facts)))
        facts_before = 0  # tokens of the facts written so far
        for filler_before, fact in zip(before, written, strict=True):
            start = filler_before + facts_before
            row[start : start + len(fact)] = fact
            facts_before += len(fact)
        row[len(row) - len(asked) :] = asked
