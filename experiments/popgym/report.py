"""The table and the picture of POPGym's tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmt_rl.analysis.figures import in_default_style, new_figure, save_figure
from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.data.references import References
from rmt_rl.statistics import mean, mean_interval

AGENTS = ("rate", "rmt", "dt", "bc")
APART = 0.18  # between the marks of two agents, where tasks are 1 apart


@dataclass(frozen=True)
class TaskResult:
    """The results of all agents on one task.

    Attributes:
        task: its name.
        references: returns of random actions and of the expert.
        returns: mean return of each training seed, by agent.
        cpu_seconds: CPU seconds of training, of all seeds together, by agent.
    """

    task: str
    references: References
    returns: Mapping[str, Sequence[float]]
    cpu_seconds: Mapping[str, float]

    def returns_of(self, agent: str) -> Sequence[float]:
        """Return the mean return of each training seed."""
        return self.returns[agent]

    def normalised(self, agent: str) -> list[float]:
        """Return the normalised return of each training seed."""
        return [self.references.normalised(value) for value in self.returns[agent]]


def returns_table(results: Sequence[TaskResult]) -> str:
    """Return a Markdown table: tasks by agents, mean returns ± half the 95% interval over training seeds."""
    rows = [_task_row(result) for result in results]
    random = sum(result.references.random for result in results)
    expert = sum(result.references.expert for result in results)
    sums = _over_tasks(results, sum, TaskResult.returns_of)
    means = _over_tasks(results, mean, TaskResult.normalised)
    rows += [
        ["**sum**", _number(random), _number(expert), *sums],
        ["**normalised, mean**", "0", "1", *means],
        ["CPU minutes, training", "", "", *_minutes(results)],
    ]
    return markdown_table(["return", "random", "expert", *AGENTS], rows) + "\n"


def _task_row(result: TaskResult) -> list[str]:
    random, expert = result.references
    spreads = [_spread(result.returns[agent]) for agent in AGENTS]
    return [result.task, _number(random), _number(expert), *spreads]


def _minutes(results: Sequence[TaskResult]) -> list[str]:
    cells = []
    for agent in AGENTS:
        seconds = sum(result.cpu_seconds[agent] for result in results)
        cells.append(f"{seconds / 60:.0f}")
    return cells


def _over_tasks(
    results: Sequence[TaskResult],
    total: Callable[[Sequence[float]], float],
    values: Callable[[TaskResult, str], Sequence[float]],
) -> list[str]:
    """Return a cell for each agent: the spread over seeds of each seed's total over all tasks."""
    cells = []
    for agent in AGENTS:
        by_task = [values(result, agent) for result in results]
        by_seed = zip(*by_task, strict=True)
        cells.append(_spread([total(seed) for seed in by_seed]))
    return cells


def _spread(values: Sequence[float]) -> str:
    """Return the mean, and half its 95% interval over seeds."""
    return _number(mean(values)) + half_width(mean_interval(values))


def _number(value: float) -> str:
    return f"{value:.2f}"


@in_default_style
def draw_returns(results: Sequence[TaskResult], path: Path) -> None:
    """Draw normalised returns by task, a mark for each seed."""
    figure = new_figure(9, 5)
    axes = figure.subplots()
    for offset, agent in enumerate(AGENTS):
        places, values = [], []
        for place, result in enumerate(results):
            for value in result.normalised(agent):
                places.append(place + APART * (offset - 1.5))
                values.append(value)
        axes.scatter(places, values, label=agent, s=28, marker="osD^"[offset])
    for height, name in ((0, "random"), (1, "expert")):
        axes.axhline(height, color="0.6", linewidth=1)
        axes.annotate(name, (len(results) - 0.4, height), va="bottom", ha="right", color="0.4")
    names = [result.task.replace("_", " ") for result in results]
    axes.set_xticks(range(len(results)), names, rotation=40, ha="right")
    axes.set_ylabel("normalised return")
    axes.legend(ncols=len(AGENTS), loc="lower right")
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, path, dpi=130)
