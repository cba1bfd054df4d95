"""Ctrl-C: the first asks to stop, a second stops at once. Only the first of several processes writes."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Self

from rmt_rl.launch import is_first_process


class StopRequest:
    """Takes SIGINT and SIGTERM, while it is open, for a request to stop; call it to ask whether there was one."""

    def __init__(self) -> None:
        self.made = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Return whether training is to stop."""
        return self.made

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        signal.signal(number, signal.default_int_handler)  # a second one stops at once
        if is_first_process():  # by os.write, since what is under way may itself be a print
            os.write(2, b"\nstopping after this update or round; once more to stop at once\n")
