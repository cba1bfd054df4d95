"""`cpu.json`: the CPU seconds that a cell of a sweep has taken to train its run and to evaluate it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmt_rl.files import write_atomically
from rmt_rl.reading import parse_json, read_text

CPU_TIME = "cpu.json"


def cpu_seconds(run: Path) -> dict[str, float]:
    """Return the CPU seconds that a run of a sweep has taken so far, by command: `train` and `evaluate`."""
    path = run / CPU_TIME
    seconds = {"train": 0.0, "evaluate": 0.0}
    if path.exists():
        saved = parse_json(read_text(path))
        seconds |= saved
    return seconds


@contextmanager
def counted(run: Path, command: str) -> Iterator[None]:
    """Add the CPU seconds of the block to those of a command, also if the block ends in an exception.

    They are those of all threads of this process, and of its child processes that end inside the block. Nothing is
    written if the block leaves no folder of a run behind.
    """
    before = _used()
    try:
        yield
    finally:
        if run.is_dir():
            total = cpu_seconds(run)
            total[command] += _used() - before
            write_atomically(run / CPU_TIME, json.dumps(total).encode())


def _used() -> float:
    """Return the CPU seconds of this process and of its child processes that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
