"""Remakes the tables of this folder: python -m experiments.standardised.

Every run is made with standardised numbers and without, with the same seeds. Each run gets a line in results.jsonl, and
isn't made again while the line is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

import tyro

from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.analysis.run_records import read_run
from rmt_rl.cli.arguments import import_typed
from rmt_rl.cli.experiment import TWO_AT_ONCE, ExecutionFlags, make_runs
from rmt_rl.errors import explained
from rmt_rl.registry import slug
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.named_options import named_config
from rmt_rl.statistics import mean, mean_interval
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
SCALED_TMAZE = "experiments.standardised.scaled:ScaledTMaze"
LABELS = {True: "standardise", False: "no-standardise"}  # in the names of runs
AT_END_METRIC = "eval/success_rate"  # of the evaluation at the end of training, on seeds of its own


@dataclass(frozen=True)
class Case:
    """A training of RATE.

    Attributes:
        env: the environment.
        options: options of the run, by the names that they have on the command line.
        plans: evaluations after training; without any, the one at the end of training counts.
        seeds: training seeds.
    """

    env: str
    options: Mapping[str, Any]
    plans: tuple[PlannedEvaluation, ...] = ()
    seeds: Sequence[int] = (0, 1, 2)


class Result(TypedDict):
    """One line of results.jsonl."""

    case: str
    standardised: bool
    seed: int
    scores: dict[str, float]
    cpu_seconds: float


SHORT = {"agent_options": {"segment_length": 10}, "updates": 200, "batch_size": 32}
AT_END = {"eval_every": 200, "eval_episodes": 100}
SCALES = {
    f"scale {scale}": Case(SCALED_TMAZE, {"env_options": {"scale": float(scale)}, **SHORT, **AT_END})
    for scale in ("1e-6", "1e-3", "1", "1e3", "1e6")
}
POPGYM = {
    "env_options": {"task": "position_only_pendulum"},
    "agent_options": {"segment_length": 64, "memory_tokens": 10},
    "segments": 2,
    "batch_size": 32,
    "collect_episodes": 1000,
    "updates": 800,
    "learning_rate": 2e-3,
    "eval_episodes": 0,
}
FIFTY = (PlannedEvaluation(episodes=50),)
TASKS = {
    "tmaze": Case(
        "tmaze",
        {"ageing": 12, "ageing_from": 0.3, "eval_episodes": 0},
        (PlannedEvaluation(vary="corridor_length=90,900,9600"),),
    ),
    "cartpole_hidden": Case("cartpole_hidden", {"feed": "windows", "updates": 400, "eval_episodes": 0}, FIFTY),
    "popgym position_only_pendulum": Case("popgym", POPGYM, FIFTY, seeds=(0, 1)),
}


def main(runs: Path = Path("runs/standardised"), execution: ExecutionFlags = TWO_AT_ONCE) -> None:
    """Train and evaluate what isn't in results.jsonl, then write table.md.

    Args:
        runs: folder of the runs.
        execution: where runs are executed.
    """
    import_typed([SCALED_TMAZE])
    for (name, standardised), due in _due().items():
        for run in make_runs(due, runs, execution, [SCALED_TMAZE]):
            _append(_result(name, standardised, run))
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


def _is_of(result: Result, name: str, standardised: bool) -> bool:
    return result["case"] == name and result["standardised"] == standardised


def _due() -> dict[tuple[str, bool], list[Cell]]:
    """Return the runs that aren't in results.jsonl, by the name of their case and whether it is standardised."""
    cases = {**SCALES, **TASKS}
    due: dict[tuple[str, bool], list[Cell]] = {}
    for name, standardised in product(cases, LABELS):
        made = {result["seed"] for result in read_results() if _is_of(result, name, standardised)}
        missing = [seed for seed in cases[name].seeds if seed not in made]
        if missing:
            due[name, standardised] = [_cell(name, cases[name], standardised, seed) for seed in missing]
    return due


def _cell(name: str, case: Case, standardised: bool, seed: int) -> Cell:
    options = {**case.options, "standardise": standardised, "seed": seed}
    return Cell(f"{slug(name)}-{LABELS[standardised]}-{seed}", named_config(case.env, "rate", options), case.plans)


def _result(name: str, standardised: bool, run: Path) -> Result:
    """Return the result of a run."""
    return {
        "case": name,
        "standardised": standardised,
        "seed": read_config(run).seed,
        "scores": _scores(run),
        "cpu_seconds": round(cpu_seconds(run).train, 1),
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
    for standardised in LABELS:
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
