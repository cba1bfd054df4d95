"""`cpu.json`: the CPU seconds that a cell of a sweep has taken to train its run and to evaluate it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field, ValidationError

from rmt_rl.config import SavedState
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.reading import parse_json, read_text

CPU_TIME = "cpu.json"


class CpuSeconds(SavedState):
    """The CPU seconds of a run's training and of its evaluations."""

    train: float = Field(0.0, ge=0, allow_inf_nan=False)
    evaluate: float = Field(0.0, ge=0, allow_inf_nan=False)


def cpu_seconds(run: Path) -> CpuSeconds:
    """Return the CPU seconds that a run of a sweep has taken so far; zeros if its file is missing or damaged.

    The seconds of processes that were killed aren't in the file.
    """
    with suppress(OSError, UsageError, ValidationError, ValueError):
        return CpuSeconds.model_validate(parse_json(read_text(run / CPU_TIME)))
    return CpuSeconds()


@contextmanager
def counted(run: Path, command: str) -> Iterator[None]:
    """Add the CPU seconds of the block to those of a command, also if the block ends in an exception.

    They are those of all threads of this process, and of its child processes that end inside the block. Nothing is
    written if the block leaves no folder of a run behind, or if its disk is full.

    Args:
        run: the folder of the run.
        command: `train` or `evaluate`.
    """
    before = _used()
    try:
        yield
    finally:
        total = cpu_seconds(run)
        added = total.model_copy(update={command: getattr(total, command) + _used() - before})
        if run.is_dir():
            with suppress(UsageError):
                write_atomically(run / CPU_TIME, added.model_dump_json().encode())


def _used() -> float:
    """Return the CPU seconds of this process and of its child processes that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
