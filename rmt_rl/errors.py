"""The error for mistakes that the user can mend."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from rmt_rl.printing import replace_unprintable


class UsageError(ValueError):
    """The user made a mistake. The message names the field, its value and the remedy."""


@contextmanager
def explained() -> Iterator[None]:
    """Print a UsageError as one line and exit with code 2; print in any encoding meanwhile."""
    replace_unprintable()
    try:
        yield
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name closest to `name` as `"; did you mean 'rate'?"`, or `""` when none is close."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[matches[0]]!r}?" if matches else ""
