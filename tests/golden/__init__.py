"""Golden runs: tiny trainings whose results must stay the same, bit for bit, while the code is moved and rewritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent / "golden.json"
PORTABLE = {  # kernels of the oldest instruction set, which round alike on most x86-64 processors
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}


def known_hashes() -> list[dict[str, str]]:
    """Return the hashes of each processor on which the golden runs were made.

    Some round alike in the probe, and yet not everywhere.
    """
    known: list[dict[str, str]] = json.loads(FILE.read_text())
    return known


def printed_hashes() -> str:
    """Make the golden runs in a process of their own; return what it prints, their hashes as JSON."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.golden.runs"]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, cwd=root, env=os.environ | PORTABLE, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
