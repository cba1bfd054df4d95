"""Standard output and error of the command. No work is lost because nobody reads what it prints.

What can't be written to standard error (progress, warnings) is dropped and the command goes on, e.g. after the terminal
or the log's disk is gone. If its reader has closed a pipe, as in `rmt-rl train ... 2>&1 | head -1`, training is asked
to stop.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rmt_rl import signals


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Give the block a standard error that never fails, and open those of the three streams that are closed."""
    _open_closed()
    before = sys.stderr
    sys.stderr = cast("TextIO", _Lasting(before))
    try:
        yield
    finally:
        sys.stderr = before


def discard_output() -> None:
    """Drop what is still to be written to standard output, which else fails once more when Python ends."""
    _discard(sys.stdout)


class _Lasting:
    """A text stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            signals.request_stop(signals.BROKEN_PIPE)
        _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _discard(stream: TextIO) -> None:
    """Send all that is written to a stream from now on, or is buffered, to nowhere."""
    with suppress(OSError, ValueError):  # it has no descriptor, or was closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def _open_closed() -> None:
    """Open the streams that are closed (`2>&-`) to nowhere, lest the next file that is opened takes their place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            os.set_inheritable(nowhere, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
