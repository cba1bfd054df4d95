"""Remakes the table and the picture of this folder: python -m experiments.popgym."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt
import tyro

from experiments.results import cpu_seconds
from experiments.suite import Suite, Sweep
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.data.references import References, read_references
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.options import read_config
from rmt_rl.statistics import mean, mean_interval

FOLDER = Path(__file__).parent
AGENTS = ("rate", "rmt", "dt", "bc")
Returns = Mapping[str, Sequence[float]]  # by agent, of each seed


def main(
    difficulty: str = "easy",
    tasks: tuple[str, ...] = (),
    seeds: int = 2,
    jobs: int = 2,
    runs: Path = Path("runs/popgym"),
) -> None:
    """Train, evaluate, tabulate, plot.

    Args:
        difficulty: easy, medium or hard.
        tasks: which base tasks; none: all 16.
        seeds: how many training seeds, 0, 1, ...
        jobs: processes at once, one thread each.
        runs: where the runs go; what is there already isn't done again.
    """
    tasks = tasks or get_args(load_task("popgym").Config.model_fields["task"].annotation)
    configs = {FOLDER / f"{agent}.toml": [Sweep(episodes=50)] for agent in AGENTS}
    references: dict[str, References] = {}
    returns: dict[str, Returns] = {}
    cpu = dict.fromkeys(AGENTS, 0.0)
    for task in tasks:
        options = ["--env.task", task, "--env.difficulty", difficulty]
        finished = Suite(configs, range(seeds), runs / difficulty / task, jobs, options).run()
        found = read_references(dataset_ids(read_config(finished[0])))
        assert found is not None
        references[task] = found
        returns[task] = {
            agent: [_return(run) for run in finished if read_config(run).agent == agent] for agent in AGENTS
        }
        for run in finished:
            cpu[read_config(run).agent] += cpu_seconds(run)["train"]
    text = _table(references, returns, cpu)
    print(text)
    (FOLDER / f"table-{difficulty}.md").write_text(text)
    _draw(references, returns, FOLDER / f"normalised-{difficulty}.png")


def _return(run: Path) -> float:
    (result,) = read_results(run)
    value: float = result["mean_return"]
    return value


def _table(references: Mapping[str, References], returns: Mapping[str, Returns], cpu: Mapping[str, float]) -> str:
    rows = []
    for task, found in references.items():
        rows.append([task, *map(_number, found), *(_spread(returns[task][agent]) for agent in AGENTS)])
    sums = [sum(found.random for found in references.values()), sum(found.expert for found in references.values())]
    rows.append(["**sum**", *map(_number, sums), *(_spread(_sums(returns, agent)) for agent in AGENTS)])
    rows.append(["**normalised, mean**", "0", "1", *(_spread(_normalised(references, returns, a)) for a in AGENTS)])
    rows.append(["CPU minutes, training", "", "", *(f"{cpu[agent] / 60:.0f}" for agent in AGENTS)])
    return markdown_table(["return", "random", "expert", *AGENTS], rows) + "\n"


def _sums(returns: Mapping[str, Returns], agent: str) -> list[float]:
    """Of each seed, over all tasks."""
    return [sum(seed) for seed in zip(*(each[agent] for each in returns.values()), strict=True)]


def _normalised(references: Mapping[str, References], returns: Mapping[str, Returns], agent: str) -> list[float]:
    """Of each seed, the mean over all tasks."""
    tasks = [[found.normalised(value) for value in returns[task][agent]] for task, found in references.items()]
    return [mean(seed) for seed in zip(*tasks, strict=True)]


def _spread(values: Sequence[float]) -> str:
    """Mean, and half its 95% interval over seeds."""
    return _number(mean(values)) + half_width(mean_interval(values))


def _number(value: float) -> str:
    return f"{value:.2f}"


def _draw(references: Mapping[str, References], returns: Mapping[str, Returns], path: Path) -> None:
    """Normalised returns by task, a mark a seed."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for offset, agent in enumerate(AGENTS):
        places = [place + 0.18 * (offset - 1.5) for place, task in enumerate(references) for _ in returns[task][agent]]
        values = [references[task].normalised(value) for task in references for value in returns[task][agent]]
        axes.scatter(places, values, label=agent, s=28, marker="osD^"[offset])
    for height, name in ((0, "random"), (1, "expert")):
        axes.axhline(height, color="0.6", linewidth=1)
        axes.annotate(name, (len(references) - 0.4, height), va="bottom", ha="right", color="0.4")
    axes.set_xticks(range(len(references)), [task.replace("_", " ") for task in references], rotation=40, ha="right")
    axes.set_ylabel("normalised return")
    axes.legend(ncols=len(AGENTS), loc="lower right")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    tyro.cli(main)
