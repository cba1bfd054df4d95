"""Measures how start, memory and updates grow with the number of episodes: python -m experiments.large_data.growth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

from experiments.large_data import walks
from rmt_rl.data.index import INDEX_FILE

HEADER = """\
| episodes | start without an index | memory | start | memory | draw a batch | draw filler segments | an update |
|---:|---:|---:|---:|---:|---:|---:|---:|"""
COUNTS = (1_000, 10_000, 100_000)


def main(counts: tuple[int, ...] = COUNTS) -> None:
    """Write data sets into a temporary folder, measure runs on each, delete it; print a table.

    Args:
        counts: numbers of episodes.
    """
    print(HEADER)
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MINARI_DATASETS_PATH"] = folder
            dataset = f"large-data/walks{count}-v0"
            walks.write(dataset, count)
            index = Path(folder, dataset, "data", INDEX_FILE)
            kept = index.read_bytes()
            index.unlink()
            without = _measured(dataset)
            index.write_bytes(kept)
            print(_row(count, without, _measured(dataset)), flush=True)


def _measured(dataset: str) -> dict[str, float]:
    """Return what a new process measures."""
    command = [sys.executable, "-m", "experiments.large_data.started", dataset]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _row(count: int, without: dict[str, float], measured: dict[str, float]) -> str:
    cells = [f"{count:,}"]
    for each in (without, measured):
        cells += [f"{each['start']:.2f} s", f"{each['memory']:.0f} MiB"]
    for name in ("draw", "fillers", "update"):
        cells.append(f"{measured[name]:.0f} ms")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    tyro.cli(main)
