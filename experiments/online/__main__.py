"""Remakes the table and the picture of this folder: python -m experiments.online."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.online.cases import AGENTS, CASES, cell
from experiments.online.report import draw_curves, online_table
from rmt_rl.analysis.results import FILE, ResultsFile
from rmt_rl.cli.experiment import Making, MakingFlags, make_kept
from rmt_rl.errors import UsageError, check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / FILE)


def main(
    tasks: tuple[str, ...] = tuple(CASES),
    agents: tuple[str, ...] = AGENTS,
    seeds: int = 3,
    making: MakingFlags = Making(Path("runs/online")),
) -> None:
    """Train, evaluate, tabulate, plot. Results of each run go to `results.jsonl` when it ends; those there stay.

    Args:
        tasks: names of tasks.
        agents: names of agents.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    check_named(tasks, list(CASES))
    check_named(agents, list(AGENTS))
    if not making.draw:
        cells = [cell(task, agent, seed) for seed in range(seeds) for task in tasks for agent in agents]
        make_kept(cells, RESULTS, making)
    results = RESULTS.read()
    if not results:
        raise UsageError(f"{RESULTS.path} holds no results yet: leave --draw out, so that runs are made")
    text = online_table(results)
    write_atomically(FOLDER / "table.md", f"{text}\n".encode())
    draw_curves(results, FOLDER / "learning.png")
    say(text)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
