"""Remakes the tables and pictures of this folder: python -m experiments.lives."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.lives.players import REFERENCES, emptied, emptied_name, is_player, reference
from experiments.lives.report import draw_lives, lives_table
from rmt_rl.analysis.results import FILE, ResultsFile
from rmt_rl.cli.experiment import Making, MakingFlags, config_cells, make_kept, make_runs
from rmt_rl.errors import check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / FILE)
TASKS = ("dark_room",)
SEEDS = {"rate": 5, "dlstm": 3, "dgru": 3, "dt": 3}
"""Agents in the order of the tables, and training seeds of each."""
EMPTIED = ("rate", "dt")
"""Agents that also play with a memory that is emptied at each start of an episode."""
LIFETIME = 10
PLANS = [
    PlannedEvaluation(vary=("goals=train,test",)),
    PlannedEvaluation(vary=("goals=test", f"lifetime={4 * LIFETIME}")),
]


def main(
    tasks: tuple[str, ...] = TASKS,
    agents: tuple[str, ...] = tuple(SEEDS),
    seeds: int = max(SEEDS.values()),
    making: MakingFlags = Making(Path("runs/lives")),
) -> None:
    """Train, evaluate, tabulate, plot. Results of each run go to `results.jsonl` when it ends; those there stay.

    Args:
        tasks: names of environments.
        agents: names of agents.
        seeds: number of training seeds, 0, 1, ..., at most those of each agent in `SEEDS`.
        making: how the runs are made.
    """
    check_named(tasks, list(TASKS))
    check_named(agents, list(SEEDS))
    if not making.draw:
        cells = _cells(tasks, agents, seeds)
        make_kept(cells, RESULTS, making)
        _play_references(tasks, making.again)
        _play_emptied(cells, making)
    for task in TASKS:
        results = [result for result in RESULTS.read() if result.config.startswith(f"{task}-")]
        if results:
            text = lives_table(task, results)
            write_atomically(FOLDER / f"table-{task}.md", f"{text}\n".encode())
            draw_lives(task, results, FOLDER / f"lives-{task}.png")
            say(text)


def _cells(tasks: tuple[str, ...], agents: tuple[str, ...], seeds: int) -> list[Cell]:
    """Return the cells, those of one seed together."""
    cells = []
    for seed in range(seeds):
        chosen = [agent for agent in agents if seed < SEEDS[agent]]
        configs = {FOLDER / f"{task}-{agent}.toml": PLANS for task in tasks for agent in chosen}
        cells += config_cells(configs, [seed])
    return cells


def _play_references(tasks: tuple[str, ...], again: bool) -> None:
    """Put the results of the levels into the file, as far as it lacks them."""
    known = _known(again)
    for task in tasks:
        for player in REFERENCES:
            if f"{task}-{player}-0" not in known:
                RESULTS.put(reference(task, player))


def _play_emptied(cells: list[Cell], making: Making) -> None:
    """Put the results of agents whose memory is emptied into the file, as far as it lacks them.

    A run whose own results were made elsewhere is made here too.
    """
    known = _known(making.again)
    due = [cell for cell in cells if cell.config.agent in EMPTIED and emptied_name(cell.name) not in known]
    absent = [cell for cell in due if not (making.runs / cell.name).exists()]
    make_runs(absent, making.runs, making.execution)
    for cell in due:
        RESULTS.put(emptied(making.runs / cell.name))


def _known(again: bool) -> set[str]:
    """Return the names of stored results of players that aren't to be made `again`."""
    return {result.name for result in RESULTS.read() if is_player(result) and not again}


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
