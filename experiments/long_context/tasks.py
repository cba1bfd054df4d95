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


class Story(NamedTuple):
    """Sentences of one sequence, and the answer as an index of `PLACES`."""

    facts: tuple[str, ...]
    question: str
    answer: int


class Lane(NamedTuple):
    """A sequence: its story, and in which segment each fact comes."""

    story: Story
    segments: tuple[int, ...]


def one_fact(rng: np.random.Generator, answer: int) -> Story:
    """Where somebody went."""
    name = rng.choice(NAMES)
    return Story((f"{name} went to the {PLACES[answer]} .",), f"where is {name} ?", answer)


def two_facts(rng: np.random.Generator, answer: int) -> Story:
    """Who took a thing, and where that one and somebody else went: either fact alone leaves it open where the thing is.

    Who knows the second fact only can guess one of its two places: right half the time.
    """
    holder, other = rng.choice(NAMES, 2, replace=False)
    elsewhere = rng.choice([place for place in PLACES if place != PLACES[answer]])
    thing = rng.choice(OBJECTS)
    first, second = rng.permutation([f"{holder} went to the {PLACES[answer]}", f"{other} went to the {elsewhere}"])
    return Story((f"{holder} took the {thing} .", f"{first} and {second} ."), f"where is the {thing} ?", answer)


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

    def segment_batch(self, rng: np.random.Generator, lanes: Sequence[Lane], numbers: Sequence[int], ask: bool) -> Ids:
        """Segment `numbers[b]` (from 0) of each lane, ids (B, L).

        Args:
            rng: draws the filler and the places of facts.
            lanes: the sequences.
            numbers: which segment of each.
            ask: whether the segments end in their lanes' questions.
        """
        tokens = self.text.windows(rng, len(lanes), self.segment)
        for row, (story, segments), number in zip(tokens, lanes, numbers, strict=True):
            facts = [fact for fact, segment in zip(story.facts, segments, strict=True) if segment == number]
            self._write(rng, row, facts, story.question if ask else "")
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
