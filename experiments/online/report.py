"""The table and the picture of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.online.cases import AGENTS, CASES, Case
from experiments.online.curves import STEPS, draw_seeds
from rmt_rl.analysis.figures import Style, finish, in_default_style, new_figure, save_figure, styles
from rmt_rl.analysis.markdown import markdown_table, mean_cell
from rmt_rl.analysis.results import RunResult
from rmt_rl.statistics import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = ["task", "agent", "score at the end", "mean of the curve", "seeds", "CPU s a training"]
COLUMNS = 4
"""Panels of a row of the picture, at most."""


def online_table(results: Sequence[RunResult]) -> str:
    """Return a Markdown table, a row for each task and agent: means over seeds ± half the 95% interval."""
    rows = []
    for name, case in CASES.items():
        for agent in AGENTS:
            own = _of(results, name, agent)
            if own:
                rows.append([name, agent, *_figures(case, own)])
    return markdown_table(HEAD, rows, left=2)


def _of(results: Sequence[RunResult], name: str, agent: str) -> list[RunResult]:
    return [result for result in results if result.config == f"{name}/{agent}"]


def _figures(case: Case, results: Sequence[RunResult]) -> list[str]:
    final = [result.evaluations[0].scores[case.score].mean for result in results]
    along = [mean(list(result.metrics[f"eval/{case.score}"].values())) for result in results]
    seconds = mean([result.cpu_seconds["train"] for result in results])
    return [mean_cell(final), mean_cell(along), str(len(results)), f"{seconds:.0f}"]


@in_default_style
def draw_curves(results: Sequence[RunResult], path: Path) -> None:
    """Draw the score against steps, a panel for each task, a line for each seed."""
    made = [name for name in CASES if any(_of(results, name, agent) for agent in AGENTS)]
    columns = min(COLUMNS, len(made))
    rows = -(-len(made) // columns)
    figure = new_figure(max(4.5, 3.6 * columns), 3.2 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    looks = styles(AGENTS)
    panels = list(grid.flat)
    for axes, name in zip(panels, made, strict=False):
        _draw_task(axes, name, results, looks)
    for axes in panels[len(made) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(AGENTS), frameon=False)
    save_figure(figure, path, dpi=160)


def _draw_task(axes: Axes, name: str, results: Sequence[RunResult], looks: Mapping[str, Style]) -> None:
    case = CASES[name]
    of_agents = {agent: _of(results, name, agent) for agent in looks}
    draw_seeds(axes, of_agents, f"eval/{case.score}", looks)
    if case.score == "success_rate":
        axes.set_ylim(-0.03, 1.03)
    finish(axes, name, STEPS, case.score.replace("_", " "))
