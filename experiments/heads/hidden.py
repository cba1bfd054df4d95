"""Remakes the table of hidden actions: python -m experiments.heads.hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments.heads.__main__ import CASES, FOLDER, HOPPER, PLANS, case_options, hopper_data, returns_table
from rmt_rl.analysis.results import ResultsFile
from rmt_rl.cli.experiment import Making, MakingFlags, make_kept
from rmt_rl.errors import explained
from rmt_rl.files import write_atomically
from rmt_rl.runs.named_options import named_config
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

RESULTS = ResultsFile(FOLDER / "hidden.jsonl")
AGENTS = ("rate", "dlstm")


class Variant(NamedTuple):
    """The part of its actions that an agent sees.

    Attributes:
        title: the heading of its column.
        hidden: the share of sequences whose actions are hidden.
        agent_options: options of the agent.
    """

    title: str
    hidden: float = 0.0
    agent_options: Mapping[str, Any] = {}


VARIANTS = {
    "seen": Variant("all seen"),
    "fifth": Variant("a fifth hidden", 0.2),
    "half": Variant("half hidden", 0.5),
    "none": Variant("no token", agent_options={"tokens": ("return_to_go", "observation")}),
}


def main(
    tasks: tuple[str, ...] = tuple(CASES),
    agents: tuple[str, ...] = AGENTS,
    seeds: int = 2,
    making: MakingFlags = Making(Path("runs/hidden")),
) -> None:
    """Train with actions hidden or not, evaluate, tabulate. Results of each run go to `hidden.jsonl` when it ends.

    Args:
        tasks: names of tasks.
        agents: names of agents.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    if not making.draw:
        hopper = hopper_data(making) if HOPPER in tasks else ""
        make_kept(_cells(tasks, agents, seeds, hopper), RESULTS, making)
    titles = {name: variant.title for name, variant in VARIANTS.items()}
    text = returns_table(RESULTS.read(), AGENTS, titles)
    write_atomically(FOLDER / "hidden-table.md", f"{text}\n".encode())
    say(text)


def _cells(tasks: Sequence[str], agents: Sequence[str], seeds: int, hopper: str) -> list[Cell]:
    cells = []
    for seed in range(seeds):
        for task in tasks:
            for agent in agents:
                for name, variant in VARIANTS.items():
                    options = case_options(task, seed, hopper, variant.agent_options)
                    options["hide_actions"] = variant.hidden
                    config = named_config(CASES[task].env, agent, options)
                    cells.append(Cell(f"{task}/{agent}/{name}-{seed}", config, PLANS))
    return cells


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
