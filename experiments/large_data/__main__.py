"""Trains on a data set larger than the memory it may use: python -m experiments.large_data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

from experiments.large_data import noise

AGENT = ["--agent.segment-length", "10", "--agent.width", "32", "--agent.heads", "2", "--agent.layers", "1"]
FEEDS = (
    ["--feed", "windows", "--burn-in", "3"],
    ["--feed", "streams"],
)


def main(count: int = 500, length: int = 1000, updates: int = 50, limit: int = 2000) -> None:
    """Write the data set into a temporary folder, train on it by several feeds, delete it.

    Args:
        count: episodes.
        length: steps of each; a step has 12,288 bytes.
        updates: of each run.
        limit: memory of each run, MB.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        noise.write(count, length)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.hdf5"))
        print(f"{count} episodes of {length} steps: {size / 1e9:.2f} GB on disk", flush=True)
        for number, feed in enumerate(FEEDS):
            line = _train(Path(folder, f"run-{number}"), feed, updates, limit)
            print(f"{' '.join(feed)}: {line}", flush=True)


def _train(run: Path, feed: list[str], updates: int, limit: int) -> str:
    """Train in limited memory; return speed, accuracy and peak memory as a line."""
    limited = [sys.executable, "-m", "experiments.large_data.limited", str(limit)]
    names = ["train", noise.ENV, "rate", "--dataset", noise.DATASET, "--out", str(run)]
    training = ["--batch-size", "16", "--updates", str(updates), "--log-every", str(updates), "--eval-episodes", "0"]
    command = [*limited, *names, *AGENT, *feed, *training]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    last_line = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    logged = json.loads(last_line)
    speed = f"{logged['time/steps_per_second']:.0f} steps/s"
    accuracy = f"accuracy {logged['train/accuracy']:.2f}"
    peak = done.stdout.splitlines()[-1]
    return f"{speed}, {accuracy}, {peak}"


if __name__ == "__main__":
    tyro.cli(main)
