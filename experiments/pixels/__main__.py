"""Remakes the table of this folder: python -m experiments.pixels [vizdoom memory-maze]."""

from __future__ import annotations

from pathlib import Path

import tyro

from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.analysis.run_records import read_single_evaluation
from rmt_rl.cli.experiment import TWO_AT_ONCE, ExecutionFlags, collect_data_sets, config_cells, make_runs
from rmt_rl.data.references import read_references
from rmt_rl.errors import check_named, explained
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.folder import read_config
from rmt_rl.sweeps.engine import PlannedEvaluation

FOLDER = Path(__file__).parent
EPISODES = {"vizdoom": 50, "memory-maze": 4}
HEAD = ["task", "agent", "seed", "return", "random", "expert", "CPU s, training"]


def main(
    names: tuple[str, ...] = tuple(EPISODES),
    seeds: int = 1,
    runs: Path = Path("runs/pixels"),
    execution: ExecutionFlags = TWO_AT_ONCE,
) -> None:
    """Train, evaluate, tabulate.

    Args:
        names: the tasks.
        seeds: number of training seeds, 0, 1, ...
        runs: folder of the runs; those that are finished aren't made again.
        execution: where runs are executed.
    """
    check_named(names, list(EPISODES), "names")
    cells = []
    for name in names:
        plans = [PlannedEvaluation(episodes=EPISODES[name])]
        configs = {FOLDER / f"{name}-{agent}.toml": plans for agent in ("rate", "bc")}
        cells += config_cells(configs, range(seeds))
    collect_data_sets(cells)  # of finished runs too, since their reference scores are in the table
    rows = [_row(run) for run in make_runs(cells, runs, execution)]
    text = markdown_table(HEAD, rows, left=2) + "\n"
    print(text)
    (FOLDER / "table.md").write_text(text, encoding="utf-8")


def _row(run: Path) -> list[str]:
    config = read_config(run)
    result = read_single_evaluation(run)
    references = read_references(dataset_ids(config))
    assert references is not None  # the expert of each task collected the data
    return [
        config.env,
        config.agent,
        str(config.seed),
        f"{result.mean_return:.2f}{bracketed(result.return_interval)}",
        f"{references.random:.2f}",
        f"{references.expert:.2f}",
        f"{cpu_seconds(run).train:.0f}",
    ]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
