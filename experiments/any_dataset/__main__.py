"""Remakes the table of this folder: python -m experiments.any_dataset [NAME ...].

For each environment: a Stable-Baselines3 agent learns by acting; its sampled episodes, and random ones, become a
Minari data set; from that data set alone, RATE and behaviour cloning learn offline; all are rolled out.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.analysis.run_records import read_single_evaluation
from rmt_rl.data.references import References, read_references
from rmt_rl.errors import explained
from rmt_rl.runs.folder import read_config
from rmt_rl.training.sweep import EvaluationPlan, check_named, cpu_seconds, train_and_evaluate

FOLDER = Path(__file__).parent
HEAD = ["data from", "agent", "return", "normalised", "CPU s, training"]
RAW = ["--no-standardise"]  # how the results in README.md were made
PLANS = [EvaluationPlan(episodes=50)]


@dataclass(frozen=True)
class Case:
    """An environment, the policies that make its data, and the training on these data.

    Attributes:
        env: the environment.
        online: arguments of the agent that learns by acting; the first is its name.
        episodes: number of episodes in the data set.
        others: further policies that play, and for how many parts to the agent's four.
        options: of the environment.
        offline: arguments of the agents that learn from the data.
    """

    env: str
    online: Sequence[str]
    episodes: int
    others: Sequence[str] = ("random=1",)
    options: Sequence[str] = ()
    offline: Sequence[str] = ()


CASES = {
    "hopper": Case(
        "Hopper-v5",
        ["ppo", "--total-timesteps", "100000", "--eval-episodes", "0"],
        episodes=300,
        offline=[*RAW, "--feed", "windows", "--agent.segment-length", "20", "--updates", "500", "--eval-episodes", "0"],
    ),
    "breakout": Case(
        "atari",
        [
            *("ppo", "--total-timesteps", "40000", "--agent.n-steps", "128", "--agent.batch-size", "256"),
            *("--agent.n-epochs", "4", "--agent.learning-rate", "5e-4", "--agent.ent-coef", "0.01"),
            *("--eval-episodes", "0"),
        ],
        episodes=60,
        others=("expert=4", "random=2"),  # as 40,000 steps are too few for PPO to learn much
        options=["--env.max-steps", "400"],
        offline=[
            *RAW,
            *("--feed", "windows", "--agent.segment-length", "10", "--batch-size", "32", "--updates", "1000"),
            *("--eval-episodes", "0"),
        ],
    ),
    "cartpole_hidden": Case(
        "cartpole_hidden",
        [
            *("recurrent_ppo", "--total-timesteps", "60000", "--agent.lstm-hidden-size", "64"),
            *("--agent.learning-rate", "1e-3", "--eval-episodes", "0"),
        ],
        episodes=300,
        offline=[*RAW, "--feed", "windows", "--updates", "400", "--eval-episodes", "0"],
    ),
}


def main(names: tuple[str, ...] = tuple(CASES), runs: Path = Path("runs/any_dataset")) -> None:
    """Train, collect, train on what was collected, evaluate, tabulate.

    Args:
        names: the environments.
        runs: folder of the runs; those that are finished aren't made again.
    """
    check_named(names, list(CASES))
    rows = []
    for name in names:
        rows += _rows(CASES[name], runs / name)
    text = markdown_table(HEAD, rows, left=2) + "\n"
    print(text)
    file = "table.md" if names == tuple(CASES) else f"table-{'-'.join(names)}.md"
    (FOLDER / file).write_text(text, encoding="utf-8")


def _rows(case: Case, runs: Path) -> list[list[str]]:
    online = runs / case.online[0]
    train_and_evaluate(online, [case.env, *case.online, *case.options], PLANS)
    dataset = _collect(case, online)
    offline = [runs / agent for agent in ("rate", "bc")]
    for run in offline:
        train_and_evaluate(run, ["--dataset", dataset, run.name, *case.offline], PLANS)
    references = read_references([dataset])
    assert references is not None  # random actions are part of the data
    random = [case.env, "random", f"{references.random:.1f}", "0", ""]
    return [random, *(_row(case.env, run, references) for run in (online, *offline))]


def _collect(case: Case, online: Path) -> str:
    """Collect episodes of the trained agent and of the other policies; return the data set's id."""
    collect = [sys.executable, "-m", "rmt_rl", "collect", case.env, *case.options]
    options = ["--episodes", str(case.episodes), "--policy", f"{online}=4", *case.others, "--sample"]
    made = subprocess.run([*collect, *options], check=True, capture_output=True, encoding="utf-8")
    dataset = made.stdout.split()[-1]
    print(f"{dataset}\n", flush=True)
    return dataset


def _row(env: str, run: Path, references: References) -> list[str]:
    result = read_single_evaluation(run)
    return [
        env,
        read_config(run).agent,
        f"{result.mean_return:.1f}{bracketed(result.return_interval, 1)}",
        f"{references.normalised(result.mean_return):.2f}",
        f"{cpu_seconds(run)['train']:.0f}",
    ]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
