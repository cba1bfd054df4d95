"""The memory and disk space that this machine has, and the error for what can't fit.

Estimates are lower bounds, compared with all memory there is, used or not. So nothing that could run is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rmt_rl.errors import UsageError

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
KIB = 1024
MOST = 1_000_000  # of the largest unit that a message names
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def memory_bytes() -> int | None:
    """Return the memory that a process can have at most: RAM and swap, or a lower limit; None if it isn't known."""
    physical = _physical_bytes()
    known = [*_limits(), *([] if physical is None else [physical])]
    return min(known, default=None)


def check_fits(cause: str, needed: int, remedy: str, available: int | None = None) -> None:
    """Raise a UsageError if something needs more memory than there is.

    Args:
        cause: the options that ask for so much, as `name=value`, and what is made of them.
        needed: bytes that it takes at least.
        remedy: the advice.
        available: bytes there are; None: the memory of this machine.
    """
    there_is = memory_bytes() if available is None else available
    if there_is is not None and needed > there_is:
        size, most = in_words(needed), in_words(there_is)
        raise UsageError(f"{cause} would take {size} of memory or more, and this machine has {most}; {remedy}")


def check_disk(cause: str, needed: int, folder: Path, remedy: str) -> None:
    """Raise a UsageError if something needs more space than the whole disk of a folder has."""
    there_is = shutil.disk_usage(folder).total
    if needed > there_is:
        size, most = in_words(needed), in_words(there_is)
        raise UsageError(f"{cause} would take {size} or more, and the disk of {folder} has {most}; {remedy}")


def in_words(size: int) -> str:
    """Return a number of bytes in its largest unit, such as `7.3 TiB`."""
    power = min((size.bit_length() - 1) // 10, len(UNITS) - 1)
    if power < 1:
        return f"{size} bytes"
    amount = size // (KIB ** (power - 1))
    if amount > MOST * KIB:
        return f"more than {MOST:,} {UNITS[power]}"
    value = amount / KIB
    return f"{value:,.0f} {UNITS[power]}" if value >= 100 else f"{value:.1f} {UNITS[power]}"


def _physical_bytes() -> int | None:
    """Return RAM and swap. Where the swap isn't known, it counts as much as the RAM."""
    if MEMINFO.exists():
        sizes = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines())
        kib = [int(sizes[name].split()[0]) for name in ("MemTotal", "SwapTotal") if name in sizes]
        return sum(kib) * KIB
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        return 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _limits() -> Iterator[int]:
    """Yield the limits of memory that are set for this process: of its control groups, and of its address space."""
    for file in _limit_files():
        with suppress(OSError, ValueError):  # `max` stands for no limit
            yield int(file.read_text(encoding="utf-8"))
    with suppress(ImportError, OSError, ValueError):
        import resource  # of Unix

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield soft


def _limit_files() -> Iterator[Path]:
    """Yield the files that may hold limits of this process's control groups, of both versions."""
    places = [""]
    with suppress(OSError):
        lines = CONTROL_GROUP.read_text(encoding="utf-8").splitlines()
        places += [line.rpartition(":")[2].strip("/") for line in lines]
    for place in set(places):
        for group in (Path(place), *Path(place).parents):
            yield CONTROL_GROUPS / group / "memory.max"
            yield CONTROL_GROUPS / "memory" / group / "memory.limit_in_bytes"
