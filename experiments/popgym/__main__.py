"""Remakes the table and the picture of this folder: python -m experiments.popgym."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import get_args

import tyro

from experiments.popgym.report import AGENTS, TaskResult, draw_returns, returns_table
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.analysis.run_records import read_single_evaluation
from rmt_rl.cli.experiment import TWO_AT_ONCE, ExecutionFlags, collect_data_sets, config_cells, make_runs
from rmt_rl.data.references import read_references
from rmt_rl.errors import explained
from rmt_rl.registry import load_task
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.folder import read_config
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell

FOLDER = Path(__file__).parent
CONFIGS = {FOLDER / f"{agent}.toml": [PlannedEvaluation(episodes=50)] for agent in AGENTS}


def main(
    difficulty: str = "easy",
    tasks: tuple[str, ...] = (),
    seeds: int = 2,
    runs: Path = Path("runs/popgym"),
    execution: ExecutionFlags = TWO_AT_ONCE,
) -> None:
    """Train, evaluate, tabulate, plot.

    Args:
        difficulty: easy, medium or hard.
        tasks: the base tasks; none: all 16.
        seeds: number of training seeds, 0, 1, ...
        runs: folder of the runs; those that are finished aren't made again.
        execution: where runs are executed.
    """
    tasks = tasks or get_args(load_task("popgym").Config.model_fields["task"].annotation)
    cells: dict[str, list[Cell]] = {}
    for task in tasks:
        options = {"task": task, "difficulty": difficulty}
        cells[task] = config_cells(CONFIGS, range(seeds), options, f"{task}/")
    folder, all_cells = runs / difficulty, [*chain.from_iterable(cells.values())]
    collect_data_sets(all_cells)  # of finished runs too, since their reference scores are in the table
    make_runs(all_cells, folder, execution)
    results = [_task_result(task, [folder / cell.name for cell in own]) for task, own in cells.items()]
    text = returns_table(results)
    print(text)
    (FOLDER / f"table-{difficulty}.md").write_text(text, encoding="utf-8")
    draw_returns(results, FOLDER / f"normalised-{difficulty}.png")


def _task_result(task: str, runs: list[Path]) -> TaskResult:
    references = read_references(dataset_ids(read_config(runs[0])))
    assert references is not None  # the expert of each task collected the data
    returns: dict[str, list[float]] = {agent: [] for agent in AGENTS}
    seconds = dict.fromkeys(AGENTS, 0.0)
    for run in runs:
        agent = read_config(run).agent
        returns[agent].append(read_single_evaluation(run).mean_return)
        seconds[agent] += cpu_seconds(run).train
    return TaskResult(task, references, returns, seconds)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
