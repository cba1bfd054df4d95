"""Remakes the tables of this folder: python -m experiments.standardised.

Every run is made with standardised numbers and without, with the same seeds. A line of results.jsonl is added as a run
ends; runs that stand there aren't made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypedDict

import tyro

from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.run_records import read_run
from rmt_rl.errors import explained
from rmt_rl.statistics import mean, mean_interval
from rmt_rl.training.sweep import EvaluationPlan, cpu_seconds, train_and_evaluate

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
SCALED_TMAZE = "experiments.standardised.scaled:ScaledTMaze"
FLAGS = {True: "--standardise", False: "--no-standardise"}
LAST = "eval/success_rate"  # at the end of training, on seeds of its own


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        training: arguments of `rmt-rl train`.
        plans: evaluations after training; without any, the one at the end of training counts.
        seeds: training seeds.
    """

    training: Sequence[str]
    plans: Sequence[EvaluationPlan] = ()
    seeds: Sequence[int] = (0, 1, 2)


class Result(TypedDict):
    """One line of results.jsonl."""

    case: str
    standardised: bool
    seed: int
    scores: dict[str, float]
    cpu_seconds: float


SHORT = ["--agent.segment-length", "10", "--updates", "200", "--batch-size", "32"]
AT_END = ["--eval-every", "200", "--eval-episodes", "100"]
SCALES = {
    f"scale {scale}": Case([SCALED_TMAZE, "rate", "--env.scale", scale, *SHORT, *AT_END])
    for scale in ("1e-6", "1e-3", "1", "1e3", "1e6")
}
TMAZE_LENGTHS = EvaluationPlan("corridor_length=90,900,9600")
TASKS = {
    "tmaze": Case(["tmaze", "rate", "--ageing", "12", "--eval-episodes", "0"], [TMAZE_LENGTHS]),
    "cartpole_hidden": Case(
        ["cartpole_hidden", "rate", "--feed", "windows", "--updates", "400", "--eval-episodes", "0"],
        [EvaluationPlan(episodes=50)],
    ),
    "Hopper-v5": Case([]),
}


def main(runs: Path = Path("runs/standardised")) -> None:
    """Train and evaluate what isn't in results.jsonl, then write table.md.

    Args:
        runs: folder of the runs.
    """
    cases = {**SCALES, **TASKS}
    for name, standardised in product(cases, FLAGS):
        for seed in cases[name].seeds:
            if not any(_is_of(result, name, standardised, seed) for result in read_results()):
                _add(_result(name, cases[name], standardised, seed, runs))
    (FOLDER / "table.md").write_text(tables())


def read_results() -> list[Result]:
    """Return the results of the runs that have ended."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def tables() -> str:
    """Return the tables of all results, as Markdown."""
    return ""


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
