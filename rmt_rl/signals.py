"""Signals that ask this process to end: Ctrl-C, a closed terminal, a batch system's warning.

A signal raises `Stopped` in the main thread, so that every `finally` cleans up. Inside `deferred()` it is only noted:
what is under way there ends first. Where Python ignores an exception, as in a finaliser, `Stopped` is raised once more
behind it. Outside `heard()`, as in another program that imports the library, signals do what they did before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rmt_rl.launch import is_first_process

_HEARD = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # the last is what Slurm's --signal=USR1@60 sends
BROKEN_PIPE = 13  # the number of SIGPIPE, which Python ignores and Windows lacks
_SAME = 2.0  # seconds; a closed terminal and some batch systems send a signal twice
_AGAIN = 0.01  # seconds, in which a finaliser that a signal came into has ended


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number

    @property
    def status(self) -> int:
        """The exit status of a process that a signal ended, as shells report it."""
        return status_of(self.number)


class _State:
    """The signals that this process has heard.

    Attributes:
        requested: the first signal; None if there was none.
        raised: when the last `Stopped` was raised, in seconds.
        deferring: True inside `deferred`.
        ignored: what Python ignored, until it is raised once more.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.raised = -_SAME
        self.deferring = False
        self.ignored: KeyboardInterrupt | None = None


_state = _State()


def status_of(number: int) -> int:
    """Return the exit status that tells of a signal."""
    return 128 + number


def requested() -> int | None:
    """Return the signal that asked this process to end; None if none did."""
    return _state.requested


def stop_requested() -> bool:
    """Return True if a signal asked this process to end."""
    return _state.requested is not None


def request_stop(number: int) -> None:
    """Ask this process to end as soon as it asks `stop_requested`; from any thread."""
    if _state.requested is None:
        _state.requested = number


@contextmanager
def heard() -> Iterator[None]:
    """Hear signals inside the block. A signal that was ignored before, as under nohup, stays ignored.

    Only the main thread can hear signals; in another one, nothing changes.
    """
    global _state
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _state = _state, _State()
    handlers = {}
    for name in _HEARD:
        number = getattr(signal, name, None)  # Windows has fewer
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            handlers[number] = signal.signal(number, _hear)
    report, sys.unraisablehook = sys.unraisablehook, lambda ignored: _ignore(ignored, report)
    try:
        yield
    finally:
        sys.unraisablehook = report
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _state = before


@contextmanager
def deferred() -> Iterator[None]:
    """Let what is inside the block end before a signal stops it; ask `stop_requested`.

    Raises:
        KeyboardInterrupt: a second Ctrl-C stops at once.
    """
    before, _state.deferring = _state.deferring, True
    try:
        yield
    finally:
        _state.deferring = before


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal stop what is inside the block, inside of `deferred` too.

    Raises:
        Stopped: a signal was heard, before or inside the block.
    """
    before, _state.deferring = _state.deferring, False
    try:
        if _state.requested is not None and before:
            raise Stopped(_state.requested)
        yield
    finally:
        _state.deferring = before


def _hear(number: int, frame: FrameType | None) -> None:
    ignored, _state.ignored = _state.ignored, None
    if ignored is not None:
        if not isinstance(ignored, Stopped) or not _state.deferring:
            raise ignored
        return
    is_first = _state.requested is None
    request_stop(number)
    if _state.deferring:
        if is_first:
            _tell()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        return
    now = time.monotonic()
    is_repeated = number != signal.SIGINT and now - _state.raised < _SAME
    if not is_repeated:
        _state.raised = now
        raise Stopped(number)


def _ignore(ignored: sys.UnraisableHookArgs, report: Callable[[sys.UnraisableHookArgs], object]) -> None:
    """Have a signal heard once more whose exception Python ignores; report any other exception.

    The signal comes again only in a moment, because here its exception would be ignored again.
    """
    exception = ignored.exc_value
    if not isinstance(exception, KeyboardInterrupt):
        report(ignored)
        return
    _state.ignored = exception
    number = exception.number if isinstance(exception, Stopped) else signal.SIGINT
    timer = threading.Timer(_AGAIN, _send, [number])
    timer.daemon = True
    timer.start()


def _send(number: int) -> None:
    """Send a signal to the main thread, also if it waits for something, as long as the thread hears signals."""
    if signal.getsignal(number) is not _hear:
        return
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:  # on Windows
        signal.raise_signal(number)


def _tell() -> None:
    """Say that the process will end; by os.write, since what is under way may itself be a print."""
    if is_first_process():
        with suppress(OSError):
            os.write(2, b"\nstopping after this update; Ctrl-C once more to stop at once\n")
