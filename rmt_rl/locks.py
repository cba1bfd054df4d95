"""Locks between processes. The operating system frees a lock when its holder ends, however it ends."""

from __future__ import annotations

import errno
import os
import platform
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from rmt_rl.errors import UsageError

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # the file system has none
_SIGNATURE = re.compile(r"process (?P<process>\d{1,20}) on (?P<host>[\w.-]{1,255}) since (?P<since>[\d :+-]{1,40})")


class Holder(NamedTuple):
    """The process that holds a lock; as a text, it reads `process 12 on mynode since 2026-01-31 12:00:00+01:00`."""

    process: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


class Busy(Exception):
    """Another process, or another part of this one, holds the lock. The message names the holder."""


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file inside the block. The file is made, names the holder, and is removed in the end.

    A file system without locks gives a warning, and the block runs without one.

    Args:
        path: the lock's file. A symbolic link isn't followed.
        wait: wait until the lock is free.

    Raises:
        Busy: the lock is held, and `wait` is False.
        UsageError: the file can't be made or opened.
    """
    lock = FileLock(path, blocking=wait, on_acquired=_sign, poll_interval=0.2)
    try:
        _acquire(lock, path)
    except Timeout:
        raise Busy(str(_signed_holder(path) or "another process")) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UsageError(
                f"{path} can't be written: {error.strerror}; remove it if it is there, or choose another folder"
            ) from None
        _remove(path)
        warnings.warn(
            f"the file system of {path.parent} has no locks ({error.strerror}): start no second process there",
            UserWarning,
            stacklevel=3,
        )
    try:
        yield
    finally:
        if lock.is_locked:
            _remove(path)  # before the release: whoever opened this file already finds it gone, and makes a new one
            lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:  # the last holder removed the folder meanwhile
            continue
        return


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _sign(descriptor: int) -> None:
    """Write the name of this process into its lock's file."""
    text = str(this_holder())
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode())


def this_holder() -> Holder:
    """Return this process as the holder of a lock that it takes now."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Holder(os.getpid(), this_host(), now)


def _signed_holder(path: Path) -> Holder | None:
    """Return the holder of a lock that is held; one that has just taken the lock gets half a second to sign."""
    latest = time.monotonic() + 0.5
    while True:
        holder = holder_of(path)
        if holder is not None or time.monotonic() > latest:
            return holder
        time.sleep(0.01)


def this_host() -> str:
    """Return the name of this machine, of letters, digits, dots and hyphens."""
    return re.sub(r"[^\w.-]", "-", platform.node()) or "localhost"


def holder_of(path: Path) -> Holder | None:
    """Return the process that a lock's file names as its last holder; None if it names none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            text = os.read(descriptor, 400).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return holder_named(text)


def holder_named(text: str) -> Holder | None:
    """Return the holder that a text names, as `Holder` writes itself; None if it names none."""
    match = _SIGNATURE.fullmatch(text)  # nothing else of a file that anyone may have written reaches the terminal
    if not match:
        return None
    return Holder(int(match["process"]), match["host"], match["since"])
