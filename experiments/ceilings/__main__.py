"""Measures returns without memory, of random actions and of the experts: python -m experiments.ceilings.

Where the popular answer, cloning the expert without memory, says too little, the best memoryless player that we know is
measured: the expert with all its privileges except what must be remembered. The return of such a player is a bound from
below on the return of memoryless agents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import tyro

from experiments.ceilings.players import (
    always_turns_left,
    blind_to_colours,
    guesses_the_turn,
    search_linear,
    walks_rounds,
    wanders,
)
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy, make_expert
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.errors import check_named, explained
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.task import Policy

FOLDER = Path(__file__).parent
SEED = 1000
HEAD = ["task", "player", "mean return", "success", "episodes", "their mean length"]
Make = Callable[[], Policy]


class Case(NamedTuple):
    """A task, the number of episodes that each player plays, and its memoryless players by what they do."""

    task: str
    episodes: int
    memoryless: dict[str, Make]


CASES = {
    "cartpole_hidden": Case(
        "cartpole_hidden",
        1000,
        {"the best of 4,000 linear policies of what is seen": search_linear},
    ),
    "minigrid_memory": Case(
        "minigrid_memory",
        1000,
        {"the expert, guessing the turn": guesses_the_turn},
    ),
    "endless_tmaze": Case(
        "endless_tmaze",
        1000,
        {"the expert, always turning left": always_turns_left},
    ),
    "color_cubes": Case(
        "color_cubes",
        1000,
        {"the expert where the target is in sight, else rounds of the grid": walks_rounds},
    ),
    "vizdoom": Case(
        "vizdoom_two_colors",
        20,
        {"the expert, blind to colours": blind_to_colours},
    ),
    "memory_maze": Case(
        "memory_maze",
        8,
        {"the expert where the ball is in sight, else wandering": wanders},
    ),
    "atari": Case("atari", 4, {}),
}


def main(names: tuple[str, ...] = tuple(CASES)) -> None:
    """Play, tabulate.

    Args:
        names: the tasks.
    """
    check_named(names, list(CASES), "names")
    rows = [row for name in names for row in _rows(CASES[name])]
    text = markdown_table(HEAD, rows, left=2) + "\n"
    print(text)
    if names == tuple(CASES):
        (FOLDER / "table.md").write_text(text, encoding="utf-8")


def _rows(case: Case) -> Iterator[list[str]]:
    task = load_task(case.task)
    began = time.perf_counter()
    for name, make in _players(case).items():
        evaluation = evaluate(make(), task, {}, case.episodes, SEED)
        yield _row(case.task, name, evaluation)
        seconds = time.perf_counter() - began
        print(f"{case.task}, {name}: {evaluation.mean_return:.2f} ({seconds:.0f} s)", flush=True)


def _players(case: Case) -> dict[str, Make]:
    task = load_task(case.task)
    with closing(task.make()) as env:
        actions = env.action_space
    return {
        "random": lambda: RandomPolicy(actions, SEED),
        "expert": lambda: make_expert(task, {}, SEED),
        **case.memoryless,
    }


def _row(task: str, player: str, evaluation: Evaluation) -> list[str]:
    rate = evaluation.success_rate
    return [
        task,
        player,
        f"{evaluation.mean_return:.2f}{bracketed(evaluation.return_interval)}",
        "-" if rate is None else f"{rate:.2f}",
        str(len(evaluation.episodes)),
        f"{evaluation.mean_length:.0f}",
    ]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
