"""Leases: the right to write below a URL, where no operating system keeps a lock.

A lease is a file that names its holder. Whoever writes the file last holds the lease, and every other process notices
before its next write. A sweep renews the lease of its folder all the time, so that a lease of a sweep that is gone can
be told from one that is held.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex

from rmt_rl.errors import UsageError
from rmt_rl.locks import Holder, holder_named, this_holder
from rmt_rl.remote import RemoteFolder
from rmt_rl.terminal import complain

RENEWAL = 10.0  # seconds between two renewals
_LONGEST = 60.0  # seconds between two attempts while the storage can't be used
_SILENCE = 3  # renewals, after which a lease that nobody renews is free


class LeaseLost(UsageError):
    """The lease's file is gone, or names another process."""


class LeaseTaken(LeaseLost):
    """Another process has taken the lease."""


class Pauses:
    """The pauses between looks at the storage. They grow while it can't be used; the first error of a row is told.

    Args:
        usual: seconds.
        longest: seconds.
    """

    def __init__(self, usual: float, longest: float = _LONGEST) -> None:
        self.usual, self.longest = usual, longest
        self.seconds = usual
        self._is_told = False

    def reset(self) -> None:
        """Begin anew, since the storage can be used."""
        self.seconds = self.usual
        self._is_told = False

    def grow(self, error: Exception) -> None:
        """Double the pause after an error."""
        if not self._is_told:
            complain(f"{error}; trying again")
        self._is_told = True
        self.seconds = min(2 * self.seconds, self.longest)


class Lease:
    """A lease of this process.

    Args:
        folder: the folder of the lease's file.
        name: the name of that file.
    """

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self.folder, self.name = folder, name
        self._token = token_hex(16)
        self._signature = str(this_holder())

    def take(self) -> None:
        """Take the lease, whoever holds it; or renew it."""
        text = f"{self._signature}\n{self._token}\n{time.time()}\n"
        self.folder.write(self.name, text.encode())

    def check(self) -> None:
        """Check that this process holds the lease.

        Raises:
            LeaseLost: it doesn't.
        """
        content = self.folder.read(self.name)
        file = f"{self.folder.shown}/{self.name}"
        if content is None:
            raise LeaseLost(f"{file} is gone: another process took over and ended, or the files were removed")
        if self._token.encode() not in content:
            by = _holder(content) or "another process"
            raise LeaseTaken(f"{file}: {by} has taken over; this one stops")

    def release(self) -> None:
        """Give the lease back, unless it is lost."""
        with suppress(UsageError):
            self.check()
            self.folder.remove(self.name)


def holder_at(folder: RemoteFolder, name: str) -> Holder | None:
    """Return the process that holds a lease, or held it last; None if there is none."""
    return _holder(folder.read(name))


@contextmanager
def leased(url: str, name: str) -> Iterator[None]:
    """Hold a lease inside the block, renewed by a thread. If it is lost, this process is asked to end.

    Raises:
        UsageError: another process holds the lease.
    """
    lease = Lease(RemoteFolder(url), name)
    _wait_for_silence(lease)
    lease.take()
    lease.folder.remove_parts(name.rpartition("/")[0])
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(url, lease, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lease.release()


def _wait_for_silence(lease: Lease) -> None:
    """Wait until it is certain that nobody renews the lease.

    Raises:
        UsageError: somebody does.
    """
    folder, name = lease.folder, lease.name
    before = folder.read(name)
    if before is None:
        return
    holder = _holder(before) or "another process"
    complain(f"{folder.shown}/{name} names {holder}; looking for {_SILENCE * RENEWAL:g} s whether it still works there")
    latest = time.monotonic() + _SILENCE * RENEWAL
    while time.monotonic() < latest:
        time.sleep(RENEWAL / 4)
        now = folder.read(name)
        if now is None:
            return
        if now != before:
            raise UsageError(
                f"{folder.shown} is in use by a sweep, {holder}; wait for it or stop it, or name another URL"
            )


def _renew(url: str, lease: Lease, done: threading.Event) -> None:
    """Renew a lease until the event; end this process as by SIGTERM if the lease is lost."""
    with suppress(UsageError):
        lease.folder = RemoteFolder(url)  # some protocols' connections belong to one thread
    pauses = Pauses(RENEWAL, longest=RENEWAL)  # a lease that isn't renewed as soon as it can be is taken by others
    while not done.wait(pauses.seconds):
        try:
            lease.check()
            lease.take()
            pauses.reset()
        except LeaseLost as lost:
            complain(str(lost))
            os.kill(os.getpid(), signal.SIGTERM)
            return
        except Exception as error:  # the storage may come back
            pauses.grow(error)


def _holder(content: bytes | None) -> Holder | None:
    signature, _, _ = (content or b"").decode(errors="replace").partition("\n")
    return holder_named(signature)
