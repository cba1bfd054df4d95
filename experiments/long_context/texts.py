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
        words = (word for paragraph in paragraphs(part) for word in words_of(paragraph))
        self.ids: Ids = np.array([unknown if word in hidden else ids.get(word, unknown) for word in words])

    def windows(self, rng: np.random.Generator, count: int, length: int) -> Ids:
        """`count` stretches (count, length) of the text from places drawn at random; behind its end comes its start."""
        starts = rng.integers(len(self.ids), size=count)
        drawn: Ids = self.ids[(starts[:, None] + np.arange(length)) % len(self.ids)]
        return drawn


@cache
def vocabulary(words: tuple[str, ...]) -> tuple[str, ...]:
    """`UNKNOWN`, the given words, and the most frequent ones of the training text."""
    counts = Counter(word for paragraph in paragraphs("train") for word in words_of(paragraph))
    frequent = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT]]
    return tuple(dict.fromkeys([UNKNOWN, *words, *frequent]))


def words_of(text: str) -> list[str]:
    """Words in lower case, and marks."""
    return _WORD.findall(text.lower())


@cache
def paragraphs(part: Part) -> tuple[str, ...]:
    """The part's paragraphs. A document is in the test part by a hash of its name: whatever the version of Python."""
    seen: set[str] = set()
    kept = []
    for name, text in _documents():
        fresh = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)]
        fresh = [each for each in dict.fromkeys(fresh) if each and each not in seen]
        seen.update(fresh)
        if ("test" if crc32(name.encode()) % 5 == 0 else "train") == part:
            kept += fresh
    return tuple(kept)


def _documents() -> Iterator[tuple[str, str]]:
    """Names and texts, in a fixed order."""
    yield from sorted(topics.items())
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "idlelib", "site-packages", "pydoc_data"}
    for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        name = path.relative_to(library)
        if name.parts[0] not in skipped:
            docstrings = re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
            yield name.as_posix(), "\n\n".join(docstrings)
