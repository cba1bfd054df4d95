"""Remakes the table and the pictures of this folder: python -m experiments.associative_retrieval."""

from __future__ import annotations

from pathlib import Path

from experiments.suite import Sweep, remake

FOLDER = Path(__file__).parent
LENGTHS = Sweep("episode_length=30,90,180,300,900,9600")
CONTEXT = Sweep("episode_length=30,90,180,300,900")  # nothing changes beyond a context, and it is slower
CONFIGS = {
    FOLDER / "rate.toml": [LENGTHS],
    FOLDER / "rate-longer.toml": [LENGTHS],
    FOLDER / "rate-no-ageing.toml": [LENGTHS],
    FOLDER / "rmt.toml": [LENGTHS],
    FOLDER / "dt.toml": [CONTEXT],
    FOLDER / "bc.toml": [CONTEXT],
}

if __name__ == "__main__":
    remake(CONFIGS, FOLDER)
