"""Memory of this process and of its machine, read from Linux's `/proc`."""

from __future__ import annotations

from pathlib import Path

KIB = 1024  # bytes
MB = 1_000_000  # bytes
PROCESS = Path("/proc/self/status")
MACHINE = Path("/proc/meminfo")


def resident_mib() -> float:
    """Return the resident memory of this process, in MiB (1,048,576 bytes)."""
    return _kib(PROCESS, "VmRSS") / 1024


def peak_mb() -> float:
    """Return the most resident memory that this process has had, in MB (1,000,000 bytes).

    Unlike `ru_maxrss`, the figure leaves out the memory of the parent process.
    """
    return _kib(PROCESS, "VmHWM") * KIB / MB


def available_mb() -> float:
    """Return the memory that processes can still take, in MB (1,000,000 bytes)."""
    return _kib(MACHINE, "MemAvailable") * KIB / MB


def _kib(path: Path, name: str) -> int:
    """Return a figure of a file whose lines are `NAME: FIGURE kB`, by which Linux means KiB."""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, figure = line.partition(":")
        if key == name:
            number, _ = figure.split()
            return int(number)
    raise LookupError(f"{path} has no {name}")
