"""Fine-tuning of offline agents by PPO: python -m experiments.online.finetune.

Agents learn from modest data, and then by acting. The same training without the offline agent stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import tyro

from experiments.online.curves import STEPS, draw_seeds
from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import EXPERT, RANDOM, Behaviour, Share
from rmt_rl.analysis.figures import finish, in_default_style, new_figure, save_figure, styles
from rmt_rl.analysis.markdown import markdown_table, mean_cell
from rmt_rl.analysis.results import ResultsFile, RunResult
from rmt_rl.cli.experiment import Making, MakingFlags, make_runs
from rmt_rl.config import validated
from rmt_rl.data.root import has_dataset
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.recipes import find_recipe
from rmt_rl.statistics import mean
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / "finetune.jsonl")
AGENT = "rate"
EPISODES = 500
POINTS = 10
"""Evaluations of a learning curve."""
SCRATCH = "scratch"
KINDS = ("tuned", SCRATCH)
HEAD = ["mean return", "data, mean", "data, best", "offline", "tuned", "scratch", "seeds"]


NO_LEASH = {"value_warmup": 0, "kl_coef": 0.0}


class Case(NamedTuple):
    """A task with its data.

    Attributes:
        env: the environment.
        env_options: its options.
        behaviour: the policies that play the data.
        steps: environment steps of learning by acting.
        online: options of PPO besides `OF_PPO`.
    """

    env: str
    env_options: Mapping[str, Any]
    behaviour: Behaviour
    steps: int
    online: Mapping[str, Any]


CASES = {
    "cartpole_hidden": Case("cartpole_hidden", {}, Behaviour((Share(RANDOM),)), 200_000, NO_LEASH),
    "battleship": Case("popgym", {"task": "battleship"}, Behaviour((Share(EXPERT),), noise=0.3), 400_000, {}),
    "count_recall": Case("popgym", {"task": "count_recall"}, Behaviour((Share(EXPERT),), noise=0.5), 200_000, {}),
    "tmaze": Case(
        "tmaze",
        {"corridor_length": [1, 20], "penalty": -0.05},
        Behaviour((Share(EXPERT),)),
        100_000,
        {"truncation": "end"},
    ),
}
OF_PPO: Mapping[str, Any] = {
    "learner": "ppo",
    "n_envs": 16,
    "batch_size": 1024,
    "n_epochs": 6,
    "learning_rate": 3e-4,
    "gae_lambda": 0.98,
    "target_kl": 0.03,
    "normalize_reward": "always",
    "decay_from": 0.3,
}


def main(
    tasks: tuple[str, ...] = tuple(CASES),
    seeds: int = 3,
    making: MakingFlags = Making(Path("runs/online/finetune")),
) -> None:
    """Collect, train, fine-tune, tabulate, plot. Results of each run go to `finetune.jsonl` when it ends.

    Args:
        tasks: names of tasks.
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    check_named(tasks, list(CASES))
    if not making.draw:
        for seed in range(seeds):
            for name in tasks:
                make_online(RESULTS, name, seed, KINDS, online, making)
    results = RESULTS.read()
    text = table(results)
    write_atomically(FOLDER / "finetune-table.md", f"{text}\n".encode())
    draw_curves(results, FOLDER / "finetune.png")
    say(text)


def make_online(
    file: ResultsFile,
    name: str,
    seed: int,
    kinds: Sequence[str],
    make: Callable[[str, str, int, Path], Cell],
    making: Making,
) -> None:
    """Train one offline agent, and then by acting, from it or from random weights; what is stored only `again`.

    Args:
        file: where the results go.
        name: the task.
        seed: of all runs.
        kinds: the runs that learn by acting.
        make: returns such a run, of a task, a kind, a seed and the folder of the runs.
        making: how the runs are made.
    """
    stored = set() if making.again else {result.name for result in file.read()}
    due = [kind for kind in kinds if f"{name}/{kind}-{seed}" not in stored]
    start = f"{name}/offline-{seed}"
    needs_start = any(kind != SCRATCH for kind in due)
    if start not in stored or (needs_start and not path_of(making.runs / start).exists()):
        make_runs([offline(name, seed)], making.runs, making.execution, file=file)
    if due:
        cells = [make(name, kind, seed, making.runs) for kind in due]
        make_runs(cells, making.runs, making.execution, file=file)


def dataset(name: str) -> str:
    """Return the id of a task's data set, which is collected first if it is missing."""
    case = CASES[name]
    return collect(case.env, validated(load_task(case.env).Config, case.env_options), EPISODES, 0, case.behaviour)


def offline(name: str, seed: int) -> Cell:
    """Return the run that learns from data."""
    case = CASES[name]
    recipe = find_recipe(case.env, AGENT).without_collecting()
    options = {"env_options": case.env_options, "dataset": dataset(name), "eval_episodes": 0, "seed": seed}
    config = named_config(case.env, AGENT, options, recipe)
    return Cell(f"{name}/offline-{seed}", config, (PlannedEvaluation(episodes=100),))


def online(name: str, kind: str, seed: int, runs: Path) -> Cell:
    """Return the run that learns by acting, from the offline agent if it is `tuned`."""
    own = start_of(name, seed, runs) if kind == "tuned" else {"agent_options": _sizes(name, seed)}
    return ppo_cell(name, kind, seed, CASES[name].steps, own)


def start_of(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """Return the option by which PPO begins with an offline agent."""
    return {"init": str(runs / f"{name}/offline-{seed}")}


def ppo_cell(name: str, kind: str, seed: int, steps: int, own: Mapping[str, Any]) -> Cell:
    """Return a run that learns by acting, with options of its own."""
    case = CASES[name]
    every = steps // POINTS
    schedule = {"total_timesteps": steps, "eval_every": every, "save_every": every, "seed": seed}
    options = {**OF_PPO, **schedule, "env_options": case.env_options, **case.online, **own}
    config = named_config(case.env, AGENT, options)
    return Cell(f"{name}/{kind}-{seed}", config, (PlannedEvaluation(episodes=100),))


def _sizes(name: str, seed: int) -> dict[str, Any]:
    """Return the options of the offline agent, whose tokens and head PPO chooses by itself."""
    values = offline(name, seed).config.agent_options.model_dump()
    return {option: value for option, value in values.items() if option not in ("tokens", "head")}


def table(results: Sequence[RunResult]) -> str:
    """Return a Markdown table, a row for each task: means over seeds ± half the 95% interval."""
    rows = []
    for name in CASES:
        returns = {kind: _final(results, name, kind) for kind in ("offline", *KINDS)}
        if returns["offline"]:
            columns = [mean_cell(values) for values in returns.values()]
            seeds = str(len(returns["tuned"]))
            rows.append([name, *_columns_of_data(_of(results, name, "offline")[0]), *columns, seeds])
    return markdown_table(HEAD, rows)


def _columns_of_data(result: RunResult) -> tuple[str, str]:
    """Return the mean and the best return of a run's data; "-" if the data aren't on this machine."""
    (dataset_id,) = cast("Sequence[str]", result.settings["data.dataset"])
    if not has_dataset(dataset_id):
        return "-", "-"
    with closing(EpisodeStore((dataset_id,), 0)) as data:
        returns = [float(data.episode(index).rewards.sum()) for index in range(len(data))]
    return f"{mean(returns):.2f}", f"{max(returns):.2f}"


def _of(results: Sequence[RunResult], name: str, kind: str) -> list[RunResult]:
    return [result for result in results if result.config == f"{name}/{kind}"]


def _final(results: Sequence[RunResult], name: str, kind: str) -> list[float]:
    return [result.evaluations[0].scores["mean_return"].mean for result in _of(results, name, kind)]


@in_default_style
def draw_curves(results: Sequence[RunResult], path: Path) -> None:
    """Draw the mean return against steps, a panel for each task, a line for each seed."""
    made = [name for name in CASES if any(_of(results, name, kind) for kind in KINDS)] or list(CASES)
    figure = new_figure(max(4.8, 4.2 * len(made)), 3.6)
    panels = list(figure.subplots(1, len(made), squeeze=False).flat)
    looks = styles(KINDS)
    for axes, name in zip(panels, made, strict=True):
        of_kinds = {kind: _of(results, name, kind) for kind in looks}
        draw_seeds(axes, of_kinds, "eval/mean_return", looks)
        before = _final(results, name, "offline")
        if before:
            axes.axhline(mean(before), color="grey", linestyle=":", label="offline")
        finish(axes, name, STEPS, "mean return")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_figure(figure, path, dpi=160)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
