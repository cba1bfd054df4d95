"""Remakes the table of this folder: python -m experiments.color_cubes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro

from rmt_rl.analysis.markdown import markdown_table, mean_cell
from rmt_rl.analysis.results import FILE, ResultsFile, RunResult
from rmt_rl.analysis.run_records import EvaluatedSetting
from rmt_rl.cli.experiment import Making, MakingFlags, config_cells, make_kept
from rmt_rl.errors import check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.statistics import mean
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / FILE)
AGENTS = ("rate", "rmt", "elmur", "dlstm", "dgru", "trxl", "dt", "bc")
EVERY = (*AGENTS, "rate-longer", "dgru-longer")
CONFIGS = {"medium": AGENTS, "extreme": EVERY}
"""Names of configs by difficulty."""
PHASES = (5, 20)
PLANS = [PlannedEvaluation(vary=("phases=5,20",))]
HEAD = [
    "difficulty",
    "agent",
    "success, 5 phases",
    "targets found of 5",
    "success, 20 phases",
    "seeds",
    "CPU s a training",
]


def main(
    agents: tuple[str, ...] = EVERY,
    seeds: int = 3,
    making: MakingFlags = Making(Path("runs/color_cubes")),
) -> None:
    """Train, evaluate, tabulate. Results of each run go to `results.jsonl` when it ends; those there stay.

    Args:
        agents: names of configs.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    check_named(agents, list(EVERY))
    if not making.draw:
        cells = _cells(agents, seeds)
        make_kept(cells, RESULTS, making)
    text = cubes_table(RESULTS.read())
    write_atomically(FOLDER / "table.md", f"{text}\n".encode())
    say(text)


def _cells(agents: Sequence[str], seeds: int) -> list[Cell]:
    cells = []
    for seed in range(seeds):
        for difficulty, names in CONFIGS.items():
            configs = {FOLDER / f"{agent}.toml": PLANS for agent in names if agent in agents}
            cells += config_cells(configs, [seed], {"difficulty": difficulty}, f"{difficulty}/")
    return cells


def cubes_table(results: Sequence[RunResult]) -> str:
    """Return a Markdown table, a row for each difficulty and agent: means over seeds ± half the 95% interval."""
    rows = []
    for difficulty, names in CONFIGS.items():
        for agent in names:
            own = [result for result in results if result.config == f"{difficulty}/{agent}"]
            if own:
                rows.append([difficulty, agent, *_figures(own)])
    return markdown_table(HEAD, rows, left=2)


def _figures(results: Sequence[RunResult]) -> list[str]:
    trained, longer = ([_setting(result, phases) for result in results] for phases in PHASES)
    found = [setting.mean_return for setting in trained]
    seconds = mean([result.cpu_seconds["train"] for result in results])
    return [
        mean_cell([setting.success_rate or 0.0 for setting in trained]),
        mean_cell(found),
        mean_cell([setting.success_rate or 0.0 for setting in longer]),
        str(len(results)),
        f"{seconds:.0f}",
    ]


def _setting(result: RunResult, phases: int) -> EvaluatedSetting:
    (setting,) = [each for each in result.evaluations if each.options == {"phases": phases}]
    return setting


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
