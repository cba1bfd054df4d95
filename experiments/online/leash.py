"""Variants of the warm-up of the critic and of the leash to the start: python -m experiments.online.leash.

The offline agents of `experiments.online.finetune` learn on by acting, with other options of the warm-up and the leash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro

from experiments.online.finetune import CASES, make_online, ppo_cell, start_of
from rmt_rl.analysis.markdown import markdown_table, mean_cell
from rmt_rl.analysis.results import ResultsFile, RunResult
from rmt_rl.cli.experiment import Making, MakingFlags
from rmt_rl.errors import check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.statistics import mean
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / "leash.jsonl")
STEPS = 100_000
TASKS = ("cartpole_hidden", "battleship", "tmaze")
VARIANTS: Mapping[str, Mapping[str, float]] = {
    "bare": {"value_warmup": 0, "kl_coef": 0.0},
    "warmup": {"value_warmup": 10_000, "kl_coef": 0.0},
    "leash": {"value_warmup": 0, "kl_coef": 0.1},
    "both": {"value_warmup": 10_000, "kl_coef": 0.1},
    "both-longer-warmup": {"value_warmup": 30_000, "kl_coef": 0.1},
    "both-tight": {"value_warmup": 10_000, "kl_coef": 1.0},
    "both-short": {"value_warmup": 10_000, "kl_coef": 0.1, "kl_decay": 30_000},
}
HEAD = ["task", "value_warmup", "kl_coef", "kl_decay", "offline", "lowest", "mean of the curve", "end", "seeds"]


def main(
    tasks: tuple[str, ...] = TASKS,
    seeds: int = 1,
    making: MakingFlags = Making(Path("runs/online/finetune")),
) -> None:
    """Train offline, fine-tune, tabulate. Results of each run go to `leash.jsonl` when it ends; those there stay.

    Args:
        tasks: names of tasks.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    check_named(tasks, list(CASES))
    if not making.draw:
        for seed in range(seeds):
            for name in tasks:
                make_online(RESULTS, name, seed, tuple(VARIANTS), cell, making)
    text = table(RESULTS.read())
    write_atomically(FOLDER / "leash-table.md", f"{text}\n".encode())
    say(text)


def cell(name: str, kind: str, seed: int, runs: Path) -> Cell:
    """Return the run that learns on by acting with the options of a variant."""
    return ppo_cell(name, kind, seed, STEPS, {**start_of(name, seed, runs), **VARIANTS[kind]})


def table(results: Sequence[RunResult]) -> str:
    """Return a Markdown table, a row for each task and variant: means over seeds ± half the 95% interval."""
    rows = []
    for name in CASES:
        before = mean_cell([_end(result) for result in _of(results, name, "offline")])
        for kind, options in VARIANTS.items():
            own = _of(results, name, kind)
            if own:
                values = [f"{options[key]:,}" if key in options else "-" for key in HEAD[1:4]]
                rows.append([name, *values, before, *_columns(own), str(len(own))])
    return markdown_table(HEAD, rows)


def _of(results: Sequence[RunResult], name: str, kind: str) -> list[RunResult]:
    return [result for result in results if result.config == f"{name}/{kind}"]


def _columns(results: Sequence[RunResult]) -> list[str]:
    """Return the lowest evaluation, the mean of all, and the one of the last checkpoint."""
    curves = [list(result.metrics["eval/mean_return"].values()) for result in results]
    lowest = [min(curve) for curve in curves]
    along = [mean(curve) for curve in curves]
    return [mean_cell(values) for values in (lowest, along, [_end(result) for result in results])]


def _end(result: RunResult) -> float:
    return result.evaluations[0].scores["mean_return"].mean


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
