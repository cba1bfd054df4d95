"""The terminal's door: text that may come from files shows its control characters, and they have no effect.

Escape sequences can rewrite a terminal's lines, its title or the clipboard. Everything that this package prints, and
every `UsageError`, passes here.
"""

from __future__ import annotations

import re
import sys

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ACTIVE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and line feed
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # invisible ones, line separators, directions of writing
    "\ud800-\udfff"  # halves of characters, which no encoding has
    "\U000e0000-\U000e007f"  # invisible tags
    "]"
)


def plain(text: str) -> str:
    r"""Return a text without colours, its other control and invisible characters written like `\x1b`."""
    uncoloured = _COLOUR.sub("", text)
    return _ACTIVE.sub(_written, uncoloured)


def one_line(text: str) -> str:
    """Return a text as `plain` does, on one line."""
    words = plain(text).split()
    return " ".join(words)


def say(text: object = "", *, flush: bool = False) -> None:
    """Print a result to the standard output."""
    print(plain(str(text)), flush=flush)


def complain(text: str) -> None:
    """Print a message to the standard error."""
    print(plain(text), file=sys.stderr)


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
