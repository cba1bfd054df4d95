"""Remakes the table of this folder: python -m experiments.any_dataset [NAME ...].

For each environment: a Stable-Baselines3 agent learns by acting; its sampled episodes, and random ones, become a
Minari data set; from that data set alone, RATE and behaviour cloning learn offline; all are rolled out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, parse_share
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.analysis.run_records import read_single_evaluation
from rmt_rl.cli.experiment import TWO_AT_ONCE, Execution, ExecutionFlags, make_runs
from rmt_rl.data.opening import evaluation_spec, open_dataset
from rmt_rl.data.references import References, read_references
from rmt_rl.errors import check_named, explained
from rmt_rl.registry import task_of_spec
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.named_options import named_config
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell

FOLDER = Path(__file__).parent
HEAD = ["data from", "agent", "return", "normalised", "CPU s, training"]
RAW = {"standardise": False, "eval_episodes": 0}  # how the results in README.md were made
PLANS = (PlannedEvaluation(episodes=50),)
OFFLINE = ("rate", "bc")
SEED = 0  # of the episodes that are collected
Options = Mapping[str, Any]
"""Options of a run, by the names that they have on the command line."""


@dataclass(frozen=True)
class Case:
    """An environment, the policies that make its data, and the training on these data.

    Attributes:
        env: the environment.
        agent: the agent that learns by acting.
        online: its options.
        episodes: number of episodes in the data set.
        offline: options of the agents that learn from the data.
        others: further policies that play, and for how many parts to the agent's four.
        env_options: options of the environment.
    """

    env: str
    agent: str
    online: Options
    episodes: int
    offline: Options
    others: Sequence[str] = ("random=1",)
    env_options: Options = field(default_factory=dict)


CASES = {
    "hopper": Case(
        "Hopper-v5",
        "ppo",
        {"total_timesteps": 100_000, "eval_episodes": 0},
        episodes=300,
        offline={**RAW, "feed": "windows", "agent_options": {"segment_length": 20}, "updates": 500},
    ),
    "breakout": Case(
        "atari",
        "ppo",
        {
            "total_timesteps": 40_000,
            "agent_options": {
                "n_steps": 128,
                "batch_size": 256,
                "n_epochs": 4,
                "learning_rate": 5e-4,
                "ent_coef": 0.01,
            },
            "eval_episodes": 0,
        },
        episodes=60,
        offline={
            **RAW,
            "feed": "windows",
            "agent_options": {"segment_length": 10},
            "batch_size": 32,
            "updates": 1000,
        },
        others=("expert=4", "random=2"),  # as 40,000 steps are too few for PPO to learn much
        env_options={"max_steps": 400},
    ),
    "cartpole_hidden": Case(
        "cartpole_hidden",
        "recurrent_ppo",
        {
            "total_timesteps": 60_000,
            "agent_options": {"lstm_hidden_size": 64, "learning_rate": 1e-3},
            "eval_episodes": 0,
        },
        episodes=300,
        offline={**RAW, "feed": "windows", "updates": 400},
    ),
}


def main(
    names: tuple[str, ...] = tuple(CASES),
    runs: Path = Path("runs/any_dataset"),
    execution: ExecutionFlags = TWO_AT_ONCE,
) -> None:
    """Train, collect, train on what was collected, evaluate, tabulate.

    Args:
        names: the environments.
        runs: folder of the runs; those that are finished aren't made again.
        execution: where runs are executed.
    """
    check_named(names, list(CASES), "names")
    rows = _rows({name: CASES[name] for name in names}, runs, execution)
    text = markdown_table(HEAD, rows, left=2) + "\n"
    print(text)
    file = "table.md" if names == tuple(CASES) else f"table-{'-'.join(names)}.md"
    (FOLDER / file).write_text(text, encoding="utf-8")


def _rows(cases: Mapping[str, Case], runs: Path, execution: Execution) -> list[list[str]]:
    online = [
        Cell(f"{name}/{case.agent}", named_config(case.env, case.agent, _online(case)), PLANS)
        for name, case in cases.items()
    ]
    make_runs(online, runs, execution)
    datasets = {name: _collect(case, runs / name / case.agent) for name, case in cases.items()}
    offline = [_offline(name, agent, dataset) for name, dataset in datasets.items() for agent in OFFLINE]
    make_runs(offline, runs, execution)
    rows = []
    for name, case in cases.items():
        references = read_references([datasets[name]])
        assert references is not None  # random actions are part of the data
        rows.append([case.env, "random", f"{references.random:.1f}", "0", ""])
        rows += [_row(case.env, runs / name / agent, references) for agent in (case.agent, *OFFLINE)]
    return rows


def _online(case: Case) -> Options:
    return {"env_options": case.env_options, **case.online}


def _offline(name: str, agent: str, dataset: str) -> Cell:
    """Return the run of an agent on a data set, in the data set's own environment."""
    spec = evaluation_spec(open_dataset(dataset))
    assert spec is not None  # a collected data set names its environment
    env, env_options = task_of_spec(spec)
    options = {"env_options": env_options, "dataset": [dataset], **CASES[name].offline}
    return Cell(f"{name}/{agent}", named_config(env, agent, options), PLANS)


def _collect(case: Case, online: Path) -> str:
    """Collect episodes of the trained agent and of the other policies; return the data set's id."""
    shares = [parse_share(text) for text in (f"{online}=4", *case.others)]
    behaviour = Behaviour(tuple(shares), sample=True)
    dataset = collect(case.env, case.env_options, case.episodes, SEED, behaviour)
    print(f"{dataset}\n", flush=True)
    return dataset


def _row(env: str, run: Path, references: References) -> list[str]:
    result = read_single_evaluation(run)
    return [
        env,
        read_config(run).agent,
        f"{result.mean_return:.1f}{bracketed(result.return_interval, 1)}",
        f"{references.normalised(result.mean_return):.2f}",
        f"{cpu_seconds(run).train:.0f}",
    ]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
