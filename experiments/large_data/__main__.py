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

AGENT = "--agent.segment-length 10 --agent.width 32 --agent.heads 2 --agent.layers 1"
FEEDS = ("--feed windows --burn-in 3", "--feed streams")


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
            run = Path(folder, f"run-{number}")
            options = f"{AGENT} {feed} --batch-size 16 --updates {updates} --log-every {updates} --eval-episodes 0"
            command = ["train", noise.ENV, "rate", "--dataset", noise.DATASET, "--out", str(run)]
            limited = [sys.executable, "-m", "experiments.large_data.limited", str(limit), *command]
            done = subprocess.run([*limited, *options.split()], check=True, stdout=subprocess.PIPE, text=True)
            logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            speed, accuracy = logged["time/steps_per_second"], logged["train/accuracy"]
            print(f"{feed}: {speed:.0f} steps/s, accuracy {accuracy:.2f}, {done.stdout.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
