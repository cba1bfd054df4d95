"""Remakes the table of this folder: python -m experiments.pixels [vizdoom memory-maze]."""

from __future__ import annotations

from pathlib import Path

import tyro

from experiments.results import cpu_seconds
from experiments.suite import Suite, Sweep
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.data.references import read_references
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.options import read_config

FOLDER = Path(__file__).parent
EPISODES = {"vizdoom": 50, "memory-maze": 4}


def main(
    names: tuple[str, ...] = tuple(EPISODES), seeds: int = 1, jobs: int = 2, runs: Path = Path("runs/pixels")
) -> None:
    """Train, evaluate, tabulate.

    Args:
        names: which tasks.
        seeds: how many training seeds, 0, 1, ...
        jobs: processes at once, one thread each.
        runs: where the runs go; what is there already isn't done again.
    """
    rows = []
    for name in names:
        configs = {FOLDER / f"{name}-{agent}.toml": [Sweep(episodes=EPISODES[name])] for agent in ("rate", "bc")}
        rows += [_row(run) for run in Suite(configs, range(seeds), runs, jobs).run()]
    head = ["task", "agent", "seed", "return", "random", "expert", "CPU s, training"]
    text = markdown_table(head, rows, left=2) + "\n"
    print(text)
    (FOLDER / "table.md").write_text(text)


def _row(run: Path) -> list[str]:
    config = read_config(run)
    (result,) = read_results(run)
    references = read_references(dataset_ids(config))
    assert references is not None
    reached = f"{result['mean_return']:.2f}" + bracketed(result["return_interval"])
    known = (f"{references.random:.2f}", f"{references.expert:.2f}")
    return [config.env, config.agent, str(config.seed), reached, *known, f"{cpu_seconds(run)['train']:.0f}"]


if __name__ == "__main__":
    tyro.cli(main)
