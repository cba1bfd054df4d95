"""Files that are read with care: reading them ends, and their numbers are finite.

Whatever stands in place of a file, such as a named pipe or a huge file, is refused, and so is text that is nested too
deeply.
"""

from __future__ import annotations

import json
import math
import stat
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from rmt_rl.errors import UsageError

SETTINGS_LIMIT = 64 << 20  # bytes of a file that people write, such as a config.toml
RESULTS_LIMIT = 4 << 30  # bytes of a file that grows with a run, such as a metrics.jsonl
_PIECE = 1 << 16  # bytes read at once
MOST_LEVELS = 100  # tables in tables of a TOML file

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path, limit: int | None = None) -> None:
    """Raise a UsageError if a path is of anything but a file, or of a file with more than `limit` bytes.

    Opening a named pipe waits for its writer, so paths are checked before they are opened.

    Raises:
        OSError: there is nothing, or it can't be reached.
    """
    status = path.stat()
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is not None:
        raise UsageError(f"{path} is {kind}, where a file is needed; remove it, or name another path")
    if limit is not None and status.st_size > limit:
        raise UsageError(f"{path} has {status.st_size:,} bytes, but at most {limit:,} can be read; name another path")


def read_text(path: Path, limit: int = SETTINGS_LIMIT) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        UsageError: something else than a file is there, or the file has more than `limit` bytes.
        OSError: there is nothing, or it can't be reached.
        ValueError: the text isn't UTF-8.
    """
    check_regular(path, limit)
    content = bytearray()
    with path.open("rb") as file:
        while len(content) <= limit:  # a device's file, such as one below /proc, doesn't tell its size
            piece = file.read(_PIECE)  # Python allocates as many bytes as are asked for
            if not piece:
                return content.decode("utf-8").replace("\r\n", "\n")
            content += piece
    raise UsageError(f"{path} has more than {limit:,} bytes; name another path")


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text.
        finite: refuse NaN, infinity and numbers too large for a float, which JSON lacks but Python writes.

    Raises:
        ValueError: the text isn't JSON, is nested too deeply, or has a number of too many digits or one to refuse.
    """
    try:
        if not finite:
            return json.loads(text)
        return json.loads(text, parse_constant=_refuse, parse_float=_finite_float)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse(text)
    return number


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML text.

    Raises:
        ValueError: the text isn't TOML, is nested too deeply, or has a number of too many digits.
    """
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None
    level: list[Any] = [values]
    for _ in range(MOST_LEVELS):
        level = [part for value in level for part in _parts(value)]
    if level:
        raise ValueError(f"values are nested too deeply, in more than {MOST_LEVELS} levels")
    return values


def _parts(value: Any) -> list[Any]:
    """Return the tables and lists in a table or list."""
    members = value.values() if isinstance(value, dict) else value
    return [member for member in members if isinstance(member, dict | list)]


def read_toml(path: Path, noun: str) -> dict[str, Any]:
    """Return the values of a TOML file that the user named; `noun` says in errors for what.

    Raises:
        UsageError: the file can't be read, or isn't TOML.
    """
    try:
        return parse_toml(read_text(path))
    except OSError as error:
        raise UsageError(f"{noun} {path} can't be read ({error.strerror}); name a TOML file") from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{noun} {path} isn't valid TOML: {error}") from None
