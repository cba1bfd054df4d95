"""Remakes experts.md, what random actions and experts reach on all 48 tasks: python -m experiments.popgym.experts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import get_args

import tyro

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy, make_expert
from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import Evaluation

FOLDER = Path(__file__).parent


def main(episodes: int = 50, seed: int = 1000) -> None:
    """Play and tabulate.

    Args:
        episodes: of each policy in each task.
        seed: of the episodes.
    """
    task = load_task("popgym")
    fields = task.Config.model_fields
    rows = []
    sums: dict[str, list[float]] = {}
    for size in get_args(fields["difficulty"].annotation):
        totals = [0.0, 0.0]
        for name in get_args(fields["task"].annotation):
            options = {"task": name, "difficulty": size}
            with closing(task.make(**options)) as env:
                random = evaluate(RandomPolicy(env.action_space, seed), task, options, episodes, seed)
            expert = evaluate(make_expert(task, options, seed), task, options, episodes, seed)
            rows.append([name, size, f"{expert.mean_length:.0f}", _number(random), _number(expert)])
            print(*rows[-1], flush=True)
            totals = [totals[0] + random.mean_return, totals[1] + expert.mean_return]
        sums[size] = totals
    sums["all"] = [sum(each) for each in zip(*sums.values(), strict=True)]
    rows += [["**sum**", size, "", f"{totals[0]:.2f}", f"{totals[1]:.2f}"] for size, totals in sums.items()]
    head = ["task", "size", "expert's steps", "random", "expert"]
    (FOLDER / "experts.md").write_text(markdown_table(head, rows, left=2) + "\n")


def _number(evaluation: Evaluation) -> str:
    """Mean return ± half its 95% interval."""
    return f"{evaluation.mean_return:.3f}" + half_width(evaluation.return_interval, 3)


if __name__ == "__main__":
    tyro.cli(main)
