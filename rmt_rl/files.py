"""Files that are read and written with care.

Reads end: whatever stands in place of a file, such as a named pipe or a huge file, is refused, and so is text that is
nested too deeply. Writes are atomic: a reader sees the whole old file or the whole new one, even if the writer is
killed.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from rmt_rl.errors import UsageError

SETTINGS_LIMIT = 64 << 20  # bytes of a file that people write, such as a config.toml
RESULTS_LIMIT = 4 << 30  # bytes of a file that grows with a run, such as a metrics.jsonl
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
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text isn't JSON, is nested too deeply, or has a number of too many digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to disk, then rename; make the folder if it is missing.

    Raises:
        UsageError: the folder can't be written to, or the disk is full; an older file at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written: {error.strerror}; free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # it was renamed, or the folder couldn't be made
            temporary.unlink()
