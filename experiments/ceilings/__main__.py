"""Measures what can be reached without memory, by random actions and by the experts: python -m experiments.ceilings.

Where the popular answer, cloning the expert without memory, says too little, the best memoryless player that we know is
measured: the expert with all its privileges except what must be remembered. What such a player reaches is a bound from
below on what memoryless agents can reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments.ceilings.players import blind_to_colours, guesses_the_turn, search_linear, wanders
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy, make_expert
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.task import Policy

FOLDER = Path(__file__).parent
SEED = 1000


class Case(NamedTuple):
    """A task, its memoryless player, and how many episodes each player plays."""

    task: str
    what: str  # the memoryless player, in words
    player: Callable[[], Policy] | None
    episodes: int
    options: Mapping[str, Any]


CASES = {
    "cartpole_hidden": Case(
        "cartpole_hidden", "the best of 4,000 linear policies of what is seen", search_linear, 1000, {}
    ),
    "minigrid_memory": Case("minigrid_memory", "the expert, guessing the turn", guesses_the_turn, 1000, {}),
    "vizdoom": Case("vizdoom_two_colors", "the expert, blind to colours", blind_to_colours, 20, {}),
    "memory_maze": Case("memory_maze", "the expert where the ball is in sight, else wandering", wanders, 8, {}),
    "atari": Case("atari", "", None, 4, {}),
}


def main(names: tuple[str, ...] = tuple(CASES)) -> None:
    """Play, tabulate.

    Args:
        names: which tasks.
    """
    head = ["task", "player", "mean return", "success", "episodes", "their mean length"]
    text = markdown_table(head, [row for name in names for row in _rows(CASES[name])], left=2) + "\n"
    print(text)
    if names == tuple(CASES):
        (FOLDER / "table.md").write_text(text)


def _rows(case: Case) -> Iterator[list[str]]:
    task, began = load_task(case.task), time.perf_counter()
    env = task.make(**case.options)
    players: dict[str, Callable[[], Policy]] = {
        "random": lambda: RandomPolicy(env.action_space, SEED),
        "expert": lambda: make_expert(task, case.options, SEED),
    } | ({case.what: case.player} if case.player else {})
    env.close()
    for name, make in players.items():
        found = evaluate(make(), task, case.options, case.episodes, SEED)
        yield _row(case.task, name, found)
        print(f"{case.task}, {name}: {found.mean_return:.2f} ({time.perf_counter() - began:.0f} s)", flush=True)


def _row(task: str, player: str, found: Evaluation) -> list[str]:
    success = "-" if found.success_rate is None else f"{found.success_rate:.2f}"
    reached = f"{found.mean_return:.2f}" + bracketed(found.return_interval)
    return [task, player, reached, success, str(len(found.episodes)), f"{found.mean_length:.0f}"]


if __name__ == "__main__":
    tyro.cli(main)
