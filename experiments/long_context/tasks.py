"""The paper's three tasks: facts hidden in text, and one question at the end, whose answer is one word.

RMT to two million tokens (arXiv 2304.11062), section 4: *memorise* (a fact at the very start), *detect* (a fact at any
place) and *reason* (two facts at any places and in any order, and the question needs both). Facts and questions are
ours, in the manner of bAbI (arXiv 1502.05698).

Dimensions: B lanes, L tokens of a segment.
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
    """What is asked, the answer as an index of `PLACES`, and the facts that tell it."""

    text: str
    answer: int
    facts: tuple[int, ...]


class Story(NamedTuple):
    """Sentences of one sequence, and what may be asked of them: the task's question first, then those of a part."""

    facts: tuple[str, ...]
    questions: tuple[Question, ...]


class Lane(NamedTuple):
    """A sequence: its story, and in which segment each fact comes."""

    story: Story
    segments: tuple[int, ...]

    @property
    def question(self) -> Question:
        """That of the task."""
        return self.story.questions[0]

    def answerable(self, segments: int) -> list[Question]:
        """What may be asked at the end of so many segments."""
        return [
            question
            for question in self.story.questions
            if all(self.segments[fact] < segments for fact in question.facts)
        ]


def one_fact(rng: np.random.Generator, answer: int) -> Story:
    """Where somebody went."""
    name = rng.choice(NAMES)
    return Story((_went(name, answer) + " .",), (_where(name, answer, 0),))


def two_facts(rng: np.random.Generator, answer: int) -> Story:
    """Who took a thing, and where that one and somebody else went: either fact alone leaves it open where the thing is.

    Who knows the second fact only can guess one of its two places: right half the time.
    """
    holder, other = rng.choice(NAMES, 2, replace=False)
    elsewhere = int(rng.choice([place for place in range(len(PLACES)) if place != answer]))
    thing = rng.choice(OBJECTS)
    first, second = rng.permutation([_went(holder, answer), _went(other, elsewhere)])
    of_the_second = (_where(holder, answer, 1), _where(other, elsewhere, 1))
    facts = (f"{holder} took the {thing} .", f"{first} and {second} .")
    return Story(facts, (_where(f"the {thing}", answer, 0, 1), *of_the_second))


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
        part: whose text is the filler.
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
        """Ids of words."""
        return np.array([self._ids[word] for word in words])

    def sequence(self, rng: np.random.Generator, segments: int) -> Lane:
        """A sequence whose facts come within the first `segments`, each in one drawn uniformly."""
        story = STORIES[self.name](rng, int(rng.integers(len(PLACES))))
        count = 1 if self.name == "memorise" else segments
        return Lane(story, tuple(rng.integers(count, size=len(story.facts)).tolist()))

    def stream(self, rng: np.random.Generator, answer: int, longest_wait: float) -> Lane:
        """A sequence without end: its facts come in random order, each after a wait of 0 to `longest_wait` segments.

        Waits are log-uniform: most are short, so that little time passes without a question.
        """
        story = STORIES[self.name](rng, answer)
        longest_wait = 0.0 if self.name == "memorise" else longest_wait
        waits = np.exp(rng.uniform(0, np.log(longest_wait + 1), size=len(story.facts))).astype(int) - 1
        segments = rng.permutation(np.cumsum(waits))
        return Lane(story, tuple(segments.tolist()))

    def segment_batch(
        self,
        rng: np.random.Generator,
        lanes: Sequence[Lane],
        numbers: Sequence[int],
        questions: Sequence[Question] | None = None,
    ) -> Ids:
        """Segment `numbers[b]` (from 0) of each lane, ids (B, L).

        Args:
            rng: draws the filler and the places of facts.
            lanes: the sequences.
            numbers: which segment of each.
            questions: of each, in which the segments end; None: in filler.
        """
        tokens = self.text.windows(rng, len(lanes), self.segment)
        texts = [question.text for question in questions] if questions else [""] * len(lanes)
        for row, (story, segments), number, text in zip(tokens, lanes, numbers, texts, strict=True):
            facts = [fact for fact, segment in zip(story.facts, segments, strict=True) if segment == number]
            self._write(rng, row, facts, text)
        return tokens

    def _write(self, rng: np.random.Generator, row: Ids, facts: Sequence[str], question: str) -> None:
        """Put sentences in place of filler: facts in random order at places that don't overlap, the question last."""
        asked = self.ids(question.split())
        written = [self.ids(facts[index].split()) for index in rng.permutation(len(facts))]
        room = len(row) - len(asked) - sum(map(len, written))
        places = (
            np.zeros(len(facts), int) if self.name == "memorise" else np.sort(rng.integers(room + 1, size=len(facts)))
        )
        before = 0
        for place, fact in zip(places, written, strict=True):
            row[place + before : place + before + len(fact)] = fact
            before += len(fact)
        row[len(row) - len(asked) :] = asked
