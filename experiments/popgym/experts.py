"""Remakes experts.md, what random actions and experts reach on all 48 tasks: python -m experiments.popgym.experts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import get_args

import tyro

from rmt_rl.collect import RandomPolicy, make_expert
from rmt_rl.evaluate import Evaluation, evaluate
from rmt_rl.registry import load_task

FOLDER = Path(__file__).parent


def main(episodes: int = 50, seed: int = 1000) -> None:
    """Play and tabulate.

    Args:
        episodes: of each policy in each task.
        seed: of the episodes.
    """
    task = load_task("popgym")
    fields = task.Config.model_fields
    rows = ["| task | size | expert's steps | random | expert |", "|---|---|---:|---:|---:|"]
    sums: dict[str, list[float]] = {}
    for size in get_args(fields["difficulty"].annotation):
        totals = [0.0, 0.0]
        for name in get_args(fields["task"].annotation):
            options = {"task": name, "difficulty": size}
            with closing(task.make(**options)) as env:
                random = evaluate(RandomPolicy(env.action_space, seed), task, options, episodes, seed)
            expert = evaluate(make_expert(task, options, seed), task, options, episodes, seed)
            rows.append(f"| {name} | {size} | {expert.mean_length:.0f} | {_number(random)} | {_number(expert)} |")
            print(rows[-1], flush=True)
            totals = [totals[0] + random.mean_return, totals[1] + expert.mean_return]
        sums[size] = totals
    sums["all"] = [sum(each) for each in zip(*sums.values(), strict=True)]
    rows += [f"| **sum** | {size} | | {totals[0]:.2f} | {totals[1]:.2f} |" for size, totals in sums.items()]
    (FOLDER / "experts.md").write_text("\n".join(rows) + "\n")


def _number(evaluation: Evaluation) -> str:
    """Mean return ± half its 95% interval."""
    low, high = evaluation.return_interval or (0.0, 0.0)
    return f"{evaluation.mean_return:.3f} ± {(high - low) / 2:.3f}"


if __name__ == "__main__":
    tyro.cli(main)
