"""Remakes the table of this folder: python -m experiments.heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import tyro

from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, parse_share
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.results import FILE, ResultsFile, RunResult
from rmt_rl.cli.experiment import Making, MakingFlags, make_kept, make_runs
from rmt_rl.errors import explained
from rmt_rl.files import write_atomically
from rmt_rl.nn.heads import HeadName
from rmt_rl.runs.named_options import named_config
from rmt_rl.statistics import mean
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.terminal import say

FOLDER = Path(__file__).parent
RESULTS = ResultsFile(FOLDER / FILE)
HEADS = [name for name in get_args(HeadName) if name != "auto"]
AGENTS = ("rate", "bc_lstm")
HOPPER = "Hopper-v5"
PLANS = (PlannedEvaluation(episodes=50),)


class Case(NamedTuple):
    """A task with bounded continuous actions.

    Attributes:
        env: the environment.
        options: options of the run.
        env_options: options of the environment.
    """

    env: str
    options: Mapping[str, Any]
    env_options: Mapping[str, Any] = {}


# Windows of 64 steps of data whose noise shows how the expert recovers: see the README of experiments/popgym.
PENDULUM = {
    "feed": "windows",
    "segments": 2,
    "batch_size": 32,
    "collect_episodes": 1000,
    "collect_noise": 0.5,
    "updates": 500,
    "learning_rate": 2e-3,
    "agent_options": {"segment_length": 32},
}
CASES = {
    "position_only_pendulum": Case("popgym", PENDULUM, {"task": "position_only_pendulum"}),
    "noisy_position_only_pendulum": Case("popgym", PENDULUM, {"task": "noisy_position_only_pendulum"}),
    HOPPER: Case(HOPPER, {"feed": "windows", "updates": 500, "agent_options": {"segment_length": 20}}),
}


def main(
    seeds: int = 2,
    making: MakingFlags = Making(Path("runs/heads")),
) -> None:
    """Train each head, evaluate, tabulate. Results of each run go to `results.jsonl` when it ends; those there stay.

    Args:
        seeds: number of training seeds, 0, 1, ...
        making: how the runs are made.
    """
    if not making.draw:
        dataset = hopper_data(making)
        make_kept(_cells(seeds, dataset), RESULTS, making)
    text = returns_table(RESULTS.read(), AGENTS, {head: head for head in HEADS})
    write_atomically(FOLDER / "table.md", f"{text}\n".encode())
    say(text)


def hopper_data(making: Making) -> str:
    """Return the data set of an agent that learnt Hopper by acting, which is made if it is missing."""
    config = named_config(HOPPER, "ppo", {"total_timesteps": 100_000, "eval_episodes": 0})
    (agent,) = make_runs([Cell("hopper-ppo", config)], making.runs, making.execution)
    shares = (parse_share(f"{agent}=4"), parse_share("random=1"))
    return collect(HOPPER, {}, 300, seed=0, behaviour=Behaviour(shares, sample=True))


def _cells(seeds: int, hopper: str) -> list[Cell]:
    return [
        _cell(task, agent, head, seed, hopper)
        for seed in range(seeds)
        for task in CASES
        for agent in AGENTS
        for head in HEADS
    ]


def _cell(task: str, agent: str, head: str, seed: int, hopper: str) -> Cell:
    options = case_options(task, seed, hopper, {"head": head})
    return Cell(f"{_config_name(task, agent, head)}-{seed}", named_config(CASES[task].env, agent, options), PLANS)


def case_options(task: str, seed: int, hopper: str, agent_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run: those of its task, a seed, Hopper's data set, and options of the agent."""
    case = CASES[task]
    of_agent = {**case.options["agent_options"], **agent_options}
    options = {**case.options, "agent_options": of_agent, "env_options": dict(case.env_options)}
    options |= {"seed": seed, "eval_episodes": 0, "hide_actions": 0.0}
    if task == HOPPER:
        options["dataset"] = [hopper]
    return options


def _config_name(task: str, agent: str, head: str) -> str:
    return f"{task}/{agent}/{head}"


def returns_table(results: Sequence[RunResult], agents: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return a Markdown table, a row for each task and agent: the mean and the worst return over seeds.

    Args:
        results: those of configs named TASK/AGENT/COLUMN.
        agents: the agents, in the order of the rows.
        titles: for each column, its title.
    """
    rows = []
    for task in CASES:
        for agent in agents:
            names = [_config_name(task, agent, column) for column in titles]
            by_column = [[one for one in results if one.config == name] for name in names]
            found = [one for own in by_column for one in own]
            if found:
                rows.append([task, agent, *map(_returns, by_column), _seeds(found), _seconds(found)])
    head = ["task", "agent", *titles.values(), "seeds", "CPU s a training"]
    return markdown_table(head, rows, left=2)


def _returns(results: Sequence[RunResult]) -> str:
    if not results:
        return ""
    returns = [result.evaluations[0].mean_return for result in results]
    return f"{mean(returns):.2f} ({min(returns):.2f})"


def _seeds(results: Sequence[RunResult]) -> str:
    return str(len({result.seed for result in results}))


def _seconds(results: Sequence[RunResult]) -> str:
    return f"{mean([result.cpu_seconds['train'] for result in results]):.0f}"


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
