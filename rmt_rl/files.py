"""Atomic writes: a reader sees the whole old file or the whole new one, even if the writer is killed.

Folders may be received from others and hold links. No write here follows a link: it would change a file elsewhere.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from rmt_rl.errors import UsageError
from rmt_rl.urls import check_no_url

_STALE = 600.0  # seconds after which a temporary file is of a writer that was killed, on whatever machine
_NAME = 100  # characters of the file's name in the name of the temporary one; systems limit a name's length
_TEMPORARY = re.compile(r"\.(\w+)-(\w+)-\w+\.tmp$")  # machine, process and secret
_NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)  # which Windows lacks


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a new temporary name, flush to disk, then rename; make the folder if it is missing.

    A link at `path` is replaced, and the file that it leads to is untouched.

    Raises:
        UsageError: the folder can't be written to, or the disk is full; an older file at `path` is untouched.
    """
    prefix = f".{path.name[:_NAME]}."
    secret = token_hex(8)  # nobody can guess the name and put a link there
    temporary = path.with_name(f"{prefix}{_machine()}-{os.getpid()}-{secret}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
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
    sweep(path.parent, prefix)


def append(path: Path, text: str) -> None:
    """Append a text to a file.

    Raises:
        OSError: the file can't be written, or `path` is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINKS
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        file.write(text)


def check_no_link(path: Path) -> None:
    """Refuse a path of a run's folder that is a link, since what is written there would go elsewhere.

    Raises:
        UsageError: it is a link.
    """
    if path.is_symlink():
        raise UsageError(f"{path} is a link to {os.readlink(path)!r}, outside of the folder; remove the link")


def sweep(folder: Path, prefix: str = ".") -> None:
    """Remove temporary files that killed writers left in a folder; those of one file have its name in the prefix."""
    oldest = time.time() - _STALE
    for left in folder.glob(f"{glob.escape(prefix)}*.tmp"):
        match = _TEMPORARY.search(left.name)
        if match is None:
            continue
        machine, process = match.groups()
        with suppress(OSError):  # another writer swept it
            is_old = left.lstat().st_mtime < oldest
            if is_old or (machine == _machine() and not _runs(process)):
                left.unlink()


def _machine() -> str:
    """Return a short name of this machine."""
    name = platform.node().encode()
    return f"{zlib.crc32(name):08x}"


def _runs(process: str) -> bool:
    """Return False if this machine has no process of a number."""
    if os.name != "posix" or not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of somebody else, or no number of a process
        return True
    return True


def check_writable(folder: Path, remedy: str) -> None:
    """Check that files can be written into a folder, or that it can be made, before work is done that would be lost.

    Raises:
        UsageError: the folder can't be written to, or was meant as a URL; the message ends in the remedy.
    """
    check_no_url(folder, remedy)
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
