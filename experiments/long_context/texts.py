"""Filler: English text that comes with Python, as words. Documents to train on and to test on are apart.

The text is the language reference (`pydoc_data.topics`) and the docstrings of the standard library, about 330,000
words in Python 3.11. A paragraph that occurs again, as many of the reference do, is kept where it occurs first, so no
paragraph is in both parts.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt

Part = Literal["train", "test"]
Ids = npt.NDArray[np.int64]
UNKNOWN = "<unk>"
FREQUENT = 2000  # words of the training text that have an id of their own
_WORD = re.compile(r"[a-z]+|[.,;:?!]")


class Text:
    """The words of one part as ids, in one row.

    Args:
        part: which part.
        vocabulary: the words with an id, see `vocabulary`; others are `UNKNOWN`.
        hidden: words that the filler mustn't hold, since tasks are about them; they are `UNKNOWN` too.
    """

    def __init__(self, part: Part, vocabulary: Sequence[str], hidden: frozenset[str]) -> None:
        ids = {word: number for number, word in enumerate(vocabulary)}
        unknown = ids[UNKNOWN]
        for word in hidden:
            ids[word] = unknown
        self.ids: Ids = np.array([ids.get(word, unknown) for word in _words(part)])

    def windows(self, rng: np.random.Generator, count: int, length: int) -> Ids:
        """Return `count` stretches (count, length) of the text from random places; its start follows its end."""
        starts = rng.integers(len(self.ids), size=count)
        places = starts[:, None] + np.arange(length)
        drawn: Ids = self.ids[places % len(self.ids)]
        return drawn


@cache
def vocabulary(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return `UNKNOWN`, the given words, and the most frequent words of the training text."""
    counts = Counter(_words("train"))
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(dict.fromkeys([UNKNOWN, *words, *by_frequency[:FREQUENT]]))


def _words(part: Part) -> Iterator[str]:
    for paragraph in paragraphs(part):
        yield from words_of(paragraph)


def words_of(text: str) -> list[str]:
    """Return words in lower case, and marks."""
    return _WORD.findall(text.lower())


@cache
def paragraphs(part: Part) -> tuple[str, ...]:
    """Return the paragraphs of a part.

    A document is in the test part by a hash of its name, so in every version of Python.
    """
    seen: set[str] = set()
    kept: list[str] = []
    for name, text in _documents():
        found = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)]
        new = [each for each in dict.fromkeys(found) if each and each not in seen]
        seen.update(new)
        its_part = "test" if crc32(name.encode()) % 5 == 0 else "train"
        if its_part == part:
            kept += new
    return tuple(kept)


def _documents() -> Iterator[tuple[str, str]]:
    """Yield names and texts, in a fixed order."""
    yield from sorted(topics.items())
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "idlelib", "site-packages", "pydoc_data"}
    for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        name = path.relative_to(library)
        if name.parts[0] not in skipped:
            source = path.read_text(encoding="utf-8", errors="replace")
            docstrings = re.findall(r'"""(.*?)"""', source, re.DOTALL)
            yield name.as_posix(), "\n\n".join(docstrings)
