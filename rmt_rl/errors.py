"""The error for mistakes that the user can mend."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from rmt_rl.printing import replace_unprintable
from rmt_rl.terminal import complain, one_line, plain


class UsageError(ValueError):
    """The user made a mistake. The message names the field, its value and the remedy.

    The message may repeat what stands in files: control characters are shown, and have no effect.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(plain(message))


MEMORY_ERRORS = ("can't allocate memory", "out of memory", "storage size calculation overflowed", "cannot allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for the errors of Python, NumPy and PyTorch about memory that isn't there."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in MEMORY_ERRORS)


def out_of_memory(error: BaseException, arguments: Sequence[str]) -> str:
    """Return one line about memory that isn't there, which names the largest options of a command line."""
    numbers = _largest_numbers(arguments)
    remedy = f"lower the largest of its options ({', '.join(numbers)})" if numbers else "lower its sizes"
    (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
    return f"the memory of this machine isn't enough; {remedy}, or free some memory ({reason[:200]})"


def _largest_numbers(arguments: Sequence[str], count: int = 3) -> list[str]:
    """Return the options with the largest values, the largest first."""
    found = []
    for option, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, value = option.partition("=")
        value = value if equals else following
        if name.startswith("--") and value.isascii() and value.isdigit():
            digits = value.lstrip("0")
            found.append((len(digits), digits, f"{name} {value}"))
    return [words for *_, words in sorted(found, reverse=True)[:count]]


@contextmanager
def explained() -> Iterator[None]:
    """Print a UsageError, or an error about memory, as one line and exit with code 2; print in any encoding."""
    replace_unprintable()
    try:
        yield
    except (UsageError, MemoryError, RuntimeError) as error:
        if isinstance(error, UsageError):
            message = str(error)
        elif is_out_of_memory(error):
            message = out_of_memory(error, sys.argv[1:])
        else:
            raise
        complain(f"error: {one_line(message)}")
        sys.exit(2)


def check_named(chosen: Sequence[str], names: Sequence[str], option: str = "only") -> None:
    """Raise a UsageError if a name that an option chooses isn't among the names that there are."""
    unknown = [name for name in chosen if name not in names]
    if unknown:
        given = ", ".join(unknown)
        known = ", ".join(names)
        raise UsageError(f"{option}={given}: nothing is named so; there are {known}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name closest to `name` as `"; did you mean 'rate'?"`, or `""` when none is close."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[matches[0]]!r}?" if matches else ""
