"""Files written whole: a reader sees the old file or the new one, even if the writer is killed."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from rmt_rl.errors import UsageError


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


def check_writable(folder: Path, remedy: str) -> None:
    """Check that files can be written into a folder, or that it can be made, before work is done that would be lost.

    Raises:
        UsageError: the folder can't be written to; the message ends in the remedy.
    """
    try:
        with tempfile.TemporaryFile(dir=_nearest_existing(folder.absolute())):
            pass
    except OSError as error:
        raise UsageError(f"{folder} can't be written to ({error.strerror}); {remedy}") from error


def _nearest_existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists.

    Raises:
        OSError: the path can't exist, e.g. since its name is too long.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return _nearest_existing(path.parent)
    return path


def check_is_text(path: Path) -> None:
    """Check that a path is text in this locale: some libraries can't open other files.

    Raises:
        UsageError: Python couldn't decode a byte of it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        name = ascii(str(path))
        raise UsageError(f"path {name} isn't text in this locale; choose another name, or set PYTHONUTF8=1") from None
