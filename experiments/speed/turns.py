"""Measuring in turns, and the memory that a run needs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmt_rl.analysis.process_memory import peak_mb

Measure = Callable[[], float]
Result = dict[str, Any]
"""A measure's result, for JSON. Speeds are lists, one number a repeat. Times are CPU time of one thread."""

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
RESET_PEAK = "5"  # written to clear_refs
PAGE = 0.004096  # MB, the least that is measured
KEPT = 1 << 16  # bytes; larger blocks are given back when they are freed


def in_turns(measures: Mapping[str, Measure], repeats: int) -> dict[str, list[float]]:
    """Measure repeat by repeat, each in its turn, so that a change of the machine's speed meets all."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def return_freed_blocks() -> None:
    """Have the C library return freed blocks of 64 KiB or more at once, so that what is resident is in use."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT)


def peak_of(run: Callable[[], object]) -> float:
    """Measure the most memory (MB) resident in a run, above what is resident before it."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="utf-8")
    before = peak_mb()
    run()
    return max(PAGE, peak_mb() - before)
