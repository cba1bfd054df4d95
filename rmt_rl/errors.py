"""The error for mistakes that the user can mend."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from rmt_rl.terminal import complain, one_line, plain


class UsageError(ValueError):
    """The user made a mistake. The message names the field, its value and the remedy.

    The message may repeat what stands in files: control characters are shown, and have no effect.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(plain(message))


@contextmanager
def explained() -> Iterator[None]:
    """Print a UsageError as one line and exit with code 2."""
    try:
        yield
    except UsageError as error:
        complain(f"error: {one_line(str(error))}")
        sys.exit(2)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name closest to `name` as `"; did you mean 'rate'?"`, or `""` when none is close."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[matches[0]]!r}?" if matches else ""
