"""Golden runs: tiny trainings whose results must stay the same, bit for bit, while the code is moved and rewritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent / "golden.json"
PORTABLE = {  # kernels of the oldest instruction set, which round alike on every x86-64 processor
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}


def printed_hashes() -> str:
    """Make the golden runs in a process of their own; return what it prints, their hashes as JSON."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.golden.runs"]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, cwd=root, env=os.environ | PORTABLE, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
