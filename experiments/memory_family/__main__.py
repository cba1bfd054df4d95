"""Remakes the table and the pictures of this folder: python -m experiments.memory_family."""

from __future__ import annotations

from pathlib import Path

import tyro

from rmt_rl.analysis.results import Experiment
from rmt_rl.cli.experiment import TWO_AT_ONCE, ExecutionFlags, make_experiment
from rmt_rl.errors import check_named, explained
from rmt_rl.sweeps.engine import PlannedEvaluation

FOLDER = Path(__file__).parent
PLANS = [
    PlannedEvaluation(vary="corridor_length=30,90,300,900"),
    PlannedEvaluation(vary="corridor_length=9600", episodes=40),
]
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
FAMILY = Experiment(FOLDER, {FOLDER / f"{name}.toml": PLANS for name in NAMES})
WITHOUT_AGEING = Experiment(FOLDER / "without_ageing", {FOLDER / f"{agent}.toml": PLANS for agent in AGEING})
FIRST_SEED = 10  # those before are the ones that options were chosen with


def main(
    only: tuple[str, ...] = (),
    seeds: int = 5,
    without_ageing: int = 3,
    runs: Path = Path("runs/memory_family"),
    draw: bool = False,
    execution: ExecutionFlags = TWO_AT_ONCE,
) -> None:
    """Train, evaluate, tabulate, plot.

    Args:
        only: just these configs, by their files' names, e.g. "rate-ageing"; what `results.jsonl` has of others is kept.
        seeds: number of training seeds.
        without_ageing: number of these seeds that are also trained without memory ageing.
        runs: folder of the runs; those that are finished aren't made again.
        draw: make tables and pictures from `results.jsonl` and nothing else.
        execution: where runs are executed.
    """
    check_named(only, [*FAMILY.names, *WITHOUT_AGEING.names])
    for experiment, count in ((FAMILY, seeds), (WITHOUT_AGEING, without_ageing)):
        if draw:
            print(experiment.draw())
            continue
        named = [name for name in only if name in experiment.names]
        if named or not only:
            training_seeds = range(FIRST_SEED, FIRST_SEED + count)
            print(make_experiment(experiment, named, training_seeds, runs, execution))


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
