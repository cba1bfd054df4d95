"""Remakes the tables of this folder: python -m experiments.standardised.

Every run is made with standardised numbers and without, with the same seeds. A line of results.jsonl is added as a run
ends; runs that stand there aren't made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypedDict

import tyro

from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.analysis.run_records import read_run
from rmt_rl.errors import explained
from rmt_rl.registry import slug
from rmt_rl.statistics import mean, mean_interval
from rmt_rl.training.sweep import EvaluationPlan, cpu_seconds, train_and_evaluate

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
SCALED_TMAZE = "experiments.standardised.scaled:ScaledTMaze"
FLAGS = {True: "--standardise", False: "--no-standardise"}
AT_END_METRIC = "eval/success_rate"  # of the evaluation at the end of training, on seeds of its own


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
POPGYM = ["--agent.segment-length", "64", "--agent.memory-tokens", "10", "--segments", "2", "--batch-size", "32"]
POPGYM += ["--collect-episodes", "1000", "--updates", "800", "--learning-rate", "2e-3", "--eval-episodes", "0"]
TASKS = {
    "tmaze": Case(
        ["tmaze", "rate", "--ageing", "12", "--eval-episodes", "0"],
        [EvaluationPlan("corridor_length=90,900,9600")],
    ),
    "cartpole_hidden": Case(
        ["cartpole_hidden", "rate", "--feed", "windows", "--updates", "400", "--eval-episodes", "0"],
        [EvaluationPlan(episodes=50)],
    ),
    "popgym position_only_pendulum": Case(
        ["popgym", "rate", "--env.task", "position_only_pendulum", *POPGYM],
        [EvaluationPlan(episodes=50)],
        seeds=(0, 1),
    ),
}


def main(runs: Path = Path("runs/standardised")) -> None:
    """Train and evaluate what isn't in results.jsonl, then write table.md.

    Args:
        runs: folder of the runs.
    """
    cases = {**SCALES, **TASKS}
    for name, standardised in product(cases, FLAGS):
        case = cases[name]
        for seed in case.seeds:
            made = [result for result in read_results() if _is_of(result, name, standardised, seed)]
            if not made:
                _append(_result(name, case, standardised, seed, runs))
    text = f"{scale_table()}\n\n{task_table()}\n"
    print(text)
    (FOLDER / "table.md").write_text(text, encoding="utf-8")


def read_results() -> list[Result]:
    """Return the results of the runs that have ended."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def _append(result: Result) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def _is_of(result: Result, name: str, standardised: bool, seed: int | None = None) -> bool:
    same_case = result["case"] == name and result["standardised"] == standardised
    return same_case and seed in (None, result["seed"])


def _result(name: str, case: Case, standardised: bool, seed: int, runs: Path) -> Result:
    """Make one run and return its result."""
    run = runs / f"{slug(name)}-{FLAGS[standardised].strip('-')}-{seed}"
    train_and_evaluate(run, [*case.training, FLAGS[standardised], "--seed", str(seed)], case.plans)
    return {
        "case": name,
        "standardised": standardised,
        "seed": seed,
        "scores": _scores(run),
        "cpu_seconds": round(cpu_seconds(run)["train"], 1),
    }


def _scores(run: Path) -> dict[str, float]:
    """Return a run's scores by the setting that was evaluated: success rates, or mean returns without them."""
    record = read_run(run)
    if not record.evaluations:
        curve = record.metrics[AT_END_METRIC]
        return {"": curve[max(curve)]}
    scores = {}
    for evaluated in record.evaluations:
        setting = " ".join(str(value) for value in evaluated.options.values())
        is_tmaze = evaluated.options  # CartPole's success is all or nothing, so its return tells more
        scores[setting] = evaluated.scores["success_rate" if is_tmaze else "mean_return"].mean
    return scores


def scale_table() -> str:
    """Return the table of success rates by the scale of the observations, as Markdown."""
    head = ["observations times", "standardised", "as they are", "CPU s a run", "seeds"]
    return markdown_table(head, [_row(name, name.removeprefix("scale "), "") for name in SCALES])


def task_table() -> str:
    """Return the table of scores by task, as Markdown."""
    head = ["task", "standardised", "as they are", "CPU s a run", "seeds"]
    rows = []
    for name in TASKS:
        settings = {
            setting: None for result in read_results() if result["case"] == name for setting in result["scores"]
        }
        rows += [_row(name, f"{name} {setting}".strip(), setting) for setting in settings]
    return markdown_table(head, rows)


def _row(name: str, label: str, setting: str) -> list[str]:
    cells = [label]
    seconds = []
    seeds = []
    for standardised in FLAGS:
        results = [result for result in read_results() if _is_of(result, name, standardised)]
        scores = [result["scores"][setting] for result in results]
        seconds += [result["cpu_seconds"] for result in results]
        seeds.append(len(results))
        digits = 2 if max(scores) <= 1 else 1
        cells.append(f"{mean(scores):.{digits}f}{half_width(mean_interval(scores), digits)}")
    return [*cells, f"{mean(seconds):.0f}", str(min(seeds))]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
