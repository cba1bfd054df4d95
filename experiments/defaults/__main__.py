"""Remakes the table of this folder: python -m experiments.defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tyro

from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.results import FILE, ResultsFile, RunResult
from rmt_rl.analysis.run_records import EvaluatedSetting
from rmt_rl.cli.experiment import Making, MakingFlags, make_kept
from rmt_rl.errors import check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.recipes import find_recipe
from rmt_rl.statistics import mean
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / FILE)
AGENT = "rate"
HEAD = ["environment", "tested at", "score", "aim", "worst seed", "mean", "seeds at the aim", "CPU s a training"]


class Case(NamedTuple):
    """The evaluations of an environment's runs.

    Attributes:
        vary: options of the environment to vary, and their values; empty for the training task.
        aim: the score that every seed should reach in every setting.
        score: success_rate or mean_return.
    """

    vary: tuple[str, ...]
    aim: float
    score: str = "success_rate"


CASES = {
    "tmaze": Case(("corridor_length=90,900,9600",), 1.0),
    "minigrid_memory": Case(("size=11,41,101",), 0.98),
    "associative_retrieval": Case(("episode_length=90,900,9600",), 1.0),
    "cartpole_hidden": Case((), 480.0, score="mean_return"),
    "endless_tmaze": Case(("corridors=1,3,5,10", "corridor_length=5,10,[1,5],[1,10]"), 0.95),
}


def main(
    only: tuple[str, ...] = (),
    seeds: int = 5,
    making: MakingFlags = Making(Path("runs/defaults")),
) -> None:
    """Train as the plain command does, evaluate, tabulate. Results of each run go to `results.jsonl` when it ends.

    Args:
        only: just these environments.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    check_named(only, list(CASES))
    if not making.draw:
        cells = [_cell(env, seed) for env in only or CASES for seed in range(seeds)]
        make_kept(cells, RESULTS, making)
    text = defaults_table(RESULTS.read())
    write_atomically(FOLDER / "table.md", f"{text}\n".encode())
    say(text)


def _cell(env: str, seed: int) -> Cell:
    """Return the run that `rmt-rl train ENV rate --seed SEED` makes, and its evaluations."""
    config = named_config(env, AGENT, {"seed": seed}, find_recipe(env, AGENT))
    return Cell(f"{env}-{seed}", config, (PlannedEvaluation(vary=CASES[env].vary),))


def defaults_table(results: Sequence[RunResult]) -> str:
    """Return a Markdown table, a row for each environment and setting."""
    rows = []
    for env, case in CASES.items():
        own = [result for result in results if result.config == env]
        if own:
            rows += _rows(env, case, own)
    return markdown_table(HEAD, rows, left=2)


def _rows(env: str, case: Case, results: Sequence[RunResult]) -> list[list[str]]:
    seconds = mean([result.cpu_seconds["train"] for result in results])
    rows = []
    for index, setting in enumerate(results[0].evaluations):
        scores = [_score(case, result.evaluations[index]) for result in results]
        reached = sum(score >= case.aim for score in scores)
        rows.append(
            [
                env,
                _described(setting),
                case.score.replace("_", " "),
                f"{case.aim:g}",
                f"{min(scores):.2f}",
                f"{mean(scores):.2f}",
                f"{reached} of {len(scores)}",
                f"{seconds:.0f}",
            ]
        )
    return rows


def _score(case: Case, setting: EvaluatedSetting) -> float:
    score = setting.scores[case.score]
    return score.mean


def _described(setting: EvaluatedSetting) -> str:
    if not setting.options:
        return "the training task"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in setting.options.items())


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
