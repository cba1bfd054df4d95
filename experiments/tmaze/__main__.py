"""Remakes the table and the pictures of this folder: python -m experiments.tmaze."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.suite import Suite, Sweep, write_results

FOLDER = Path(__file__).parent
LENGTHS = Sweep("corridor_length=30,90,300,900,9600")
LONGEST = Sweep("corridor_length=96000", episodes=16)
CONFIGS = {
    FOLDER / "rate.toml": [LENGTHS, LONGEST],
    FOLDER / "rate-ageing.toml": [LENGTHS, LONGEST],
    FOLDER / "rate-no-valve.toml": [LENGTHS],
    FOLDER / "rate-no-valve-ageing.toml": [LENGTHS],
    FOLDER / "rate-free-reads.toml": [LENGTHS],
    FOLDER / "dt.toml": [LENGTHS],
}


def main(seeds: int = 5, jobs: int = 2, runs: Path = Path("runs/tmaze")) -> None:
    """Train, evaluate, tabulate, plot.

    Args:
        seeds: how many training seeds, 0, 1, ...
        jobs: processes at once, one thread each.
        runs: where the runs go; what is there already isn't done again.
    """
    finished = Suite(CONFIGS, range(seeds), runs, jobs).run()
    print(write_results(finished, FOLDER))


if __name__ == "__main__":
    tyro.cli(main)
