"""Errors that are the user's to mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """A mistake of the user's: one message that names the field, its value and the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name closest to `name` as `"; did you mean 'rate'?"`, or `""` when none is close."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[matches[0]]!r}?" if matches else ""
