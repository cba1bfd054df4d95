"""Remakes experts.md and experts.json, returns of random actions and experts on all 48 tasks.

Command: python -m experiments.popgym.experts
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, get_args

import tyro

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy, make_expert
from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.data.references import References
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import Evaluation

FOLDER = Path(__file__).parent
SCORES = FOLDER / "experts.json"
HEAD = ["task", "size", "expert's steps", "random", "expert"]


class Played(NamedTuple):
    """A task at one size, and what random actions and its expert reach there."""

    task: str
    size: str
    random: Evaluation
    expert: Evaluation

    @property
    def scores(self) -> References:
        """Mean returns, by which agents' returns are normalised."""
        return References(self.random.mean_return, self.expert.mean_return)


def main(episodes: int = 50, seed: int = 1000) -> None:
    """Play and tabulate.

    Args:
        episodes: of each policy in each task.
        seed: of the episodes.
    """
    fields = load_task("popgym").Config.model_fields
    sizes = get_args(fields["difficulty"].annotation)
    rows: list[list[str]] = []
    sums: list[list[str]] = []
    everything: list[Played] = []
    for size in sizes:
        played = []
        for name in get_args(fields["task"].annotation):
            played.append(_play(name, size, episodes, seed))
            rows.append(_row(played[-1]))
            print(*rows[-1], flush=True)
        sums.append(_sum_row(size, played))
        everything += played
    sums.append(_sum_row("all", everything))
    text = markdown_table(HEAD, [*rows, *sums], left=2)
    (FOLDER / "experts.md").write_text(text + "\n", encoding="utf-8")
    scores = {f"{each.size}/{each.task}": each.scores for each in everything}
    SCORES.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


def references() -> dict[str, References]:
    """Return the mean returns of random actions and of the expert, by DIFFICULTY/TASK, as the command stored them."""
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    return {name: References(*values) for name, values in scores.items()}


def _play(name: str, size: str, episodes: int, seed: int) -> Played:
    task = load_task("popgym")
    options = {"task": name, "difficulty": size}
    with closing(task.make(**options)) as env:
        policy = RandomPolicy(env.action_space, seed)
    random = evaluate(policy, task, options, episodes, seed)
    expert = evaluate(make_expert(task, options, seed), task, options, episodes, seed)
    return Played(name, size, random, expert)


def _row(played: Played) -> list[str]:
    steps = f"{played.expert.mean_length:.0f}"
    return [played.task, played.size, steps, _number(played.random), _number(played.expert)]


def _sum_row(size: str, played: Iterable[Played]) -> list[str]:
    random = expert = 0.0
    for each in played:
        random += each.random.mean_return
        expert += each.expert.mean_return
    return ["**sum**", size, "", f"{random:.2f}", f"{expert:.2f}"]


def _number(evaluation: Evaluation) -> str:
    """Return the mean return ± half its 95% interval."""
    return f"{evaluation.mean_return:.3f}" + half_width(evaluation.return_interval, 3)


if __name__ == "__main__":
    tyro.cli(main)
