"""The machine that speeds are measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Return processor, load and versions by name."""
    load, _, _ = os.getloadavg()
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": f"{load:.1f} of {os.cpu_count()} cores busy when it began",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, shortened, or "of no commit" if the folder is no clone."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    return f"at commit {done.stdout.strip()}" if done.returncode == 0 else "of no commit"
