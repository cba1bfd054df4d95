"""The tables and the picture of POPGym's tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmt_rl.analysis.figures import in_default_style, new_figure, save_figure
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.results import RunResult
from rmt_rl.data.references import References
from rmt_rl.statistics import mean

WIDTH = 0.7  # of all agents' marks together, where tasks are 1 apart
MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class TaskResult:
    """The results of all agents on one task.

    Attributes:
        task: its name.
        references: returns of random actions and of the expert.
        returns: mean return of each training seed, by agent; agents without a run are missing.
        cpu_seconds: CPU seconds of each training, by agent.
    """

    task: str
    references: References
    returns: Mapping[str, Sequence[float]]
    cpu_seconds: Mapping[str, Sequence[float]]

    def normalised(self, agent: str) -> list[float]:
        """Return the normalised return of each training seed."""
        return [self.references.normalised(value) for value in self.returns[agent]]


def task_results(
    difficulty: str, results: Iterable[RunResult], references: Mapping[str, References]
) -> list[TaskResult]:
    """Return the results on all tasks of a difficulty, with and without runs.

    Args:
        difficulty: easy, medium or hard.
        results: results of runs, named DIFFICULTY/TASK/AGENT-SEED.
        references: scores by DIFFICULTY/TASK.
    """
    returns: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for result in results:
        name, _, agent = result.config.rpartition("/")
        (evaluation,) = result.evaluations
        returns.setdefault(name, {}).setdefault(agent, []).append(evaluation.mean_return)
        seconds.setdefault(name, {}).setdefault(agent, []).append(result.cpu_seconds["train"])
    tasks = []
    for name, scores in references.items():
        size, _, task = name.partition("/")
        if size == difficulty:
            tasks.append(TaskResult(task, scores, returns.get(name, {}), seconds.get(name, {})))
    return tasks


def tasks_table(results: Sequence[TaskResult], agents: Sequence[str]) -> str:
    """Return a Markdown table: tasks by agents, mean returns over seeds, and the normalised ones in brackets."""
    rows = []
    for result in results:
        random, expert = result.references
        cells = [_return_cell(result, agent) for agent in agents]
        rows.append([result.task, _number(random), _number(expert), *cells])
    rows.append(["CPU seconds a training, mean", "", "", *[_seconds_cell(results, agent) for agent in agents]])
    return markdown_table(["return", "random", "expert", *agents], rows) + "\n"


def _return_cell(result: TaskResult, agent: str) -> str:
    if agent not in result.returns:
        return "-"
    return f"{_number(mean(result.returns[agent]))} ({_number(mean(result.normalised(agent)))})"


def _seconds_cell(results: Sequence[TaskResult], agent: str) -> str:
    seconds = [one for result in results for one in result.cpu_seconds.get(agent, ())]
    return f"{mean(seconds):.0f}" if seconds else "-"


def sums_table(by_difficulty: Mapping[str, Sequence[TaskResult]], agents: Sequence[str]) -> str:
    """Return a Markdown table of sums of returns, and of normalised means, by difficulty and over all tasks.

    An agent has a figure where it has runs on all tasks.
    """
    everything = [result for results in by_difficulty.values() for result in results]
    rows = []
    for name, results in {**by_difficulty, "all": everything}.items():
        random = sum(result.references.random for result in results)
        expert = sum(result.references.expert for result in results)
        sums = [_sum_cell(results, agent) for agent in agents]
        means = [_mean_cell(results, agent) for agent in agents]
        rows.append([f"{name}, sum of returns", f"{random:.1f}", f"{expert:.1f}", *sums])
        rows.append([f"{name}, normalised mean", "0", "1", *means])
    return markdown_table([f"{len(everything)} tasks", "random", "expert", *agents], rows) + "\n"


def _sum_cell(results: Sequence[TaskResult], agent: str) -> str:
    if not _is_complete(results, agent):
        return "-"
    return f"{sum(mean(result.returns[agent]) for result in results):.1f}"


def _mean_cell(results: Sequence[TaskResult], agent: str) -> str:
    if not _is_complete(results, agent):
        return "-"
    return _number(mean([mean(result.normalised(agent)) for result in results]))


def _is_complete(results: Sequence[TaskResult], agent: str) -> bool:
    return bool(results) and all(agent in result.returns for result in results)


def _number(value: float) -> str:
    return f"{value:.2f}"


@in_default_style
def draw_returns(results: Sequence[TaskResult], agents: Sequence[str], path: Path) -> None:
    """Draw normalised returns by task, a mark for each seed, of the agents that have runs."""
    shown = [agent for agent in agents if any(agent in result.returns for result in results)]
    figure = new_figure(9, 5)
    axes = figure.subplots()
    apart = WIDTH / len(shown)
    for index, agent in enumerate(shown):
        offset = apart * (index - (len(shown) - 1) / 2)
        places, values = [], []
        for place, result in enumerate(results):
            if agent in result.returns:
                for value in result.normalised(agent):
                    places.append(place + offset)
                    values.append(value)
        axes.scatter(places, values, label=agent, s=28, marker=MARKERS[index])
    for height, name in ((0, "random"), (1, "expert")):
        axes.axhline(height, color="0.6", linewidth=1)
        axes.annotate(name, (len(results) - 0.5, height), va="bottom", ha="right", color="0.4")
    names = [result.task.replace("_", " ") for result in results]
    axes.set_xticks(range(len(results)), names, rotation=40, ha="right")
    axes.set_xlim(-0.5, len(results) - 0.5)
    axes.set_ylabel("normalised return")
    axes.legend(ncols=len(shown), loc="center right")
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, path, dpi=130)
