"""Remakes the table and the pictures of this folder: python -m experiments.minigrid_memory."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.suite import Suite, Sweep, write_results

FOLDER = Path(__file__).parent
SIZES = Sweep("size=11,41,101,201")
LARGEST = Sweep("size=501", episodes=40)
CONFIGS = {
    FOLDER / "rate.toml": [SIZES, LARGEST],
    FOLDER / "rate-no-ageing.toml": [SIZES, LARGEST],
    FOLDER / "rmt.toml": [SIZES, LARGEST],
    FOLDER / "rate-no-hindsight.toml": [SIZES],
    FOLDER / "dt.toml": [SIZES],
    FOLDER / "bc.toml": [SIZES],
}


def main(seeds: int = 5, jobs: int = 2, runs: Path = Path("runs/minigrid_memory")) -> None:
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
