"""Remakes the tables and pictures of this folder: python -m experiments.popgym."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import tyro

from experiments.popgym.experts import references
from experiments.popgym.report import TaskResult, draw_returns, sums_table, task_results, tasks_table
from rmt_rl.analysis.results import FILE, ResultsFile
from rmt_rl.cli.experiment import Making, MakingFlags, config_cells, make_kept
from rmt_rl.errors import explained
from rmt_rl.files import write_atomically
from rmt_rl.registry import load_task
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
SEEDS = {"rate": 2, "dt": 1, "bc_lstm": 1, "dgru": 1, "bc": 1, "filtered_bc": 1}
"""Agents in the order of the tables, and training seeds of each."""
PLANS = [PlannedEvaluation(episodes=50)]
RESULTS = ResultsFile(FOLDER / FILE)
Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)


def main(
    difficulties: tuple[Difficulty, ...] = DIFFICULTIES,
    tasks: tuple[str, ...] = (),
    agents: tuple[str, ...] = tuple(SEEDS),
    seeds: int = max(SEEDS.values()),
    making: MakingFlags = Making(Path("runs/popgym")),
) -> None:
    """Train, evaluate, tabulate, plot. Results of each run go to `results.jsonl` when it ends; those there stay.

    Args:
        difficulties: easy, medium, hard.
        tasks: the base tasks; none: all 16.
        agents: names of configs; none: all.
        seeds: number of training seeds at most; agents beside rate have one.
        making: how the runs are made.
    """
    tasks = tasks or get_args(load_task("popgym").Config.model_fields["task"].annotation)
    if not making.draw:
        cells = _cells(difficulties, tasks, agents, seeds)
        make_kept(cells, RESULTS, making)
    _write_tables()


def _cells(difficulties: tuple[str, ...], tasks: tuple[str, ...], agents: tuple[str, ...], seeds: int) -> list[Cell]:
    """Return the cells, those of an agent and seed together, so that the first results are of all tasks."""
    cells = []
    for seed in range(seeds):
        for agent in agents:
            if seed >= SEEDS[agent]:
                continue
            config = {FOLDER / f"{agent}.toml": PLANS}
            for difficulty in difficulties:
                for task in tasks:
                    options = {"task": task, "difficulty": difficulty}
                    cells += config_cells(config, [seed], options, f"{difficulty}/{task}/")
    return cells


def _write_tables() -> None:
    """Write the sums over tasks, and a table and a picture for each difficulty that has runs."""
    scores = references()
    results = RESULTS.read()
    by_difficulty: dict[str, list[TaskResult]] = {}
    for difficulty in DIFFICULTIES:
        own = task_results(difficulty, results, scores)
        by_difficulty[difficulty] = own
        if not any(result.returns for result in own):
            continue
        text = tasks_table(own, list(SEEDS))
        write_atomically(FOLDER / f"table-{difficulty}.md", text.encode())
        draw_returns(own, list(SEEDS), FOLDER / f"normalised-{difficulty}.png")
    text = sums_table(by_difficulty, list(SEEDS))
    write_atomically(FOLDER / "sums.md", text.encode())
    say(text)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
