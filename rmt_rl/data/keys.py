"""Keys of Dict spaces as names in HDF5 files and in Minari's metadata.

HDF5 reads a slash as a path, a dot as the current group, and no empty name. dm_control's keys, such as
`walker/height`, hold slashes. So a data set stores these keys escaped, and Minari shows the escaped ones:

| in a key | stored |
|---|---|
| `/` | `%2F` |
| `%` | `%25` |
| NUL | `%00` |
| a key of dots alone | `%2E` for each |
| a lone surrogate, such as U+D800 | `%uD800` |
| the empty key | `%empty` |

Other keys are stored as they are. Reading a data set turns the escapes back.
"""

from __future__ import annotations

import re

_EMPTY = "%empty"
_TO_ESCAPE = re.compile("[/%\0\ud800-\udfff]")
_ESCAPE = re.compile(f"{_EMPTY}|%u(D[89A-F][0-9A-F]{{2}})|%(2F|25|00|2E)")


def escaped(key: str) -> str:
    """Return the name under which a data set stores a key."""
    if not key:
        return _EMPTY
    if not key.strip("."):
        return "%2E" * len(key)
    return _TO_ESCAPE.sub(_escape, key)


def unescaped(name: str) -> str:
    """Return the key that a data set stores under a name."""
    return _ESCAPE.sub(_character, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"%u{code:04X}" if code > 0xFF else f"%{code:02X}"


def _character(match: re.Match[str]) -> str:
    digits = match[1] or match[2]
    return chr(int(digits, 16)) if digits else ""
