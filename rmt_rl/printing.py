"""Printing in any encoding: characters that a stream's encoding lacks are replaced, so no command fails by them."""

from __future__ import annotations

import codecs
import sys
from io import TextIOWrapper

_HANDLER = "rmt_rl.replace"
_STRICT = {"strict", "surrogateescape"}  # Python's handlers for standard output
_PLAIN = {"±": "+-", "²": "^2", "µ": "u", "≥": ">=", "≤": "<=", "·": ".", "━": "-"}


def replace_unprintable() -> None:
    """Make standard output replace characters that its encoding lacks, unless the user chose how errors are handled.

    Standard error does so in Python anyway.
    """
    codecs.register_error(_HANDLER, _replacement)
    stream = sys.stdout
    if isinstance(stream, TextIOWrapper) and stream.errors in _STRICT:
        stream.reconfigure(errors=_HANDLER)


def _replacement(error: UnicodeError) -> tuple[str, int]:
    """Return what to write for the first character that can't be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    place = error.start
    character = error.object[place]
    escaped = character.encode("ascii", "backslashreplace").decode("ascii")
    return _PLAIN.get(character, escaped), place + 1
