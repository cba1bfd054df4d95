"""Remakes the table and the pictures of this folder: python -m experiments.associative_retrieval."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.suite import Suite, Sweep, write_results

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


def main(seeds: int = 5, jobs: int = 2, runs: Path = Path("runs/associative_retrieval")) -> None:
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
