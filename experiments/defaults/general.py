"""Remakes the table of the general defaults: python -m experiments.defaults.general.

The general defaults are the options of a run without a recipe. Each row of the table changes one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.results import ResultsFile, RunResult
from rmt_rl.cli.experiment import Making, MakingFlags, make_kept
from rmt_rl.errors import check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.runs.named_options import named_config
from rmt_rl.statistics import mean
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / "general.jsonl")
AGENT = "rate"


class Case(NamedTuple):
    """A task on which the defaults are compared.

    Attributes:
        env: the environment.
        score: success_rate or mean_return.
        env_options: options of the environment.
        vary: an option of the environment that the evaluation changes; empty for the training task.
    """

    env: str
    score: str = "success_rate"
    env_options: Mapping[str, Any] = {}
    vary: tuple[str, ...] = ()


CASES = {
    "T-Maze, corridor of 900": Case("tmaze", vary=("corridor_length=900",)),
    "MiniGrid Memory, size 41": Case("minigrid_memory", vary=("size=41",)),
    "POPGym count_recall": Case("popgym", "mean_return", {"task": "count_recall"}),
    "CartPole, hidden velocities": Case("cartpole_hidden", "mean_return"),
}
VARIANTS: dict[str, Mapping[str, Any]] = {
    "unchanged": {},
    "learning-rate-5e-4": {"learning_rate": 5e-4},
    "learning-rate-2e-3": {"learning_rate": 2e-3},
    "warmup-100": {"warmup": 100},
    "updates-1000": {"updates": 1000},
    "ageing-at-any": {"ageing_at": "any"},
    "hindsight-0": {"hindsight": 0},
}
ONLY: dict[str, tuple[str, ...]] = {"ageing-at-any": ("tmaze", "minigrid_memory"), "hindsight-0": ("minigrid_memory",)}
"""The environments in which a variant differs: they have filler segments in their data, or declare hindsight."""


def main(
    variants: tuple[str, ...] = (),
    seeds: int = 2,
    making: MakingFlags = Making(Path("runs/general")),
) -> None:
    """Train without recipes, evaluate, tabulate. Results of each run go to `general.jsonl` when it ends.

    Args:
        variants: just these rows.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    check_named(variants, list(VARIANTS))
    if not making.draw:
        make_kept(_cells(variants or tuple(VARIANTS), seeds), RESULTS, making)
    text = general_table(RESULTS.read())
    write_atomically(FOLDER / "general.md", f"{text}\n".encode())
    say(text)


def _cells(variants: Sequence[str], seeds: int) -> list[Cell]:
    return [
        _cell(variant, case, seed)
        for seed in range(seeds)
        for variant in variants
        for case in CASES.values()
        if case.env in ONLY.get(variant, (case.env,))
    ]


def _cell(variant: str, case: Case, seed: int) -> Cell:
    options = {"env_options": dict(case.env_options), "eval_episodes": 0, "seed": seed, **VARIANTS[variant]}
    plans = (PlannedEvaluation(vary=case.vary),)
    return Cell(f"{_config_name(variant, case)}-{seed}", named_config(case.env, AGENT, options), plans)


def _config_name(variant: str, case: Case) -> str:
    return f"{case.env}/{variant}"


def general_table(results: Sequence[RunResult]) -> str:
    """Return a Markdown table, a row for each variant: the mean and the worst score over seeds of each task."""
    rows = []
    for variant in VARIANTS:
        own = {
            name: [result for result in results if result.config == _config_name(variant, case)]
            for name, case in CASES.items()
        }
        if any(own.values()):
            rows.append([variant, *(_scores(CASES[name], found) for name, found in own.items()), _seconds(own)])
    return markdown_table(["options", *CASES, "CPU s a training"], rows)


def _scores(case: Case, results: Sequence[RunResult]) -> str:
    if not results:
        return ""
    scores = [result.evaluations[0].scores[case.score].mean for result in results]
    return f"{mean(scores):.2f} ({min(scores):.2f})"


def _seconds(own: Mapping[str, Sequence[RunResult]]) -> str:
    seconds = [result.cpu_seconds["train"] for results in own.values() for result in results]
    return f"{mean(seconds):.0f}"


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
