"""Remakes the table and the pictures of this folder: python -m experiments.memory_family."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.suite import Sweep, check_named, made_again
from rmt_rl.errors import explained

FOLDER = Path(__file__).parent
SWEEPS = [Sweep("corridor_length=30,90,300,900"), Sweep("corridor_length=9600", episodes=40)]
AGEING = [
    "rate",
    "rmt",
    "elmur",
    "armt",
    "titans_mac",
    "titans_mag",
    "titans_mal",
    "dlstm",
    "dgru",
    "dmamba",
    "bc_lstm",
]
NAMES = [f"{agent}-ageing" for agent in AGEING] + ["trxl-enhanced-ageing", "trxl", "gtrxl", "dt", "bc"]
CONFIGS = {FOLDER / f"{name}.toml": SWEEPS for name in NAMES}
WITHOUT_AGEING = {FOLDER / f"{agent}.toml": SWEEPS for agent in AGEING}
FIRST_SEED = 10  # those before are the ones that options were chosen with


def main(
    only: tuple[str, ...] = (),
    seeds: int = 5,
    without_ageing: int = 3,
    jobs: int = 2,
    runs: Path = Path("runs/memory_family"),
) -> None:
    """Train, evaluate, tabulate, plot.

    Args:
        only: just these configs, by their files' names, e.g. "rate-ageing"; what `results.jsonl` has of others is kept.
        seeds: how many training seeds.
        without_ageing: how many of them are also trained without memory ageing.
        jobs: processes at once, one thread each.
        runs: where the runs go; what is there already isn't done again.
    """
    check_named(only, [file.stem for file in [*CONFIGS, *WITHOUT_AGEING]])
    parts = (CONFIGS, seeds, FOLDER), (WITHOUT_AGEING, without_ageing, FOLDER / "without_ageing")
    for configs, count, folder in parts:
        named = [name for name in only if name in {file.stem for file in configs}]
        if named or not only:
            print(made_again(configs, folder, named, range(FIRST_SEED, FIRST_SEED + count), runs, jobs))


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
