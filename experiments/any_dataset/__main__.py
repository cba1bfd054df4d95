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

from experiments.results import cpu_seconds
from experiments.suite import rmt_rl, spent
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.data.references import read_references
from rmt_rl.runs.evaluation import read_evaluation, read_results
from rmt_rl.runs.options import read_config

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """An environment, who makes its data and how they are learnt from."""

    env: str
    online: Sequence[str]  # arguments of the agent that learns by acting
    episodes: int
    others: Sequence[str] = ("random=1",)  # who plays besides, for how many parts to its four
    options: Sequence[str] = ()  # of the environment
    offline: Sequence[str] = ()  # arguments of the agents that learn from the data


CASES = {
    "hopper": Case(
        "Hopper-v5",
        ["ppo", "--total-timesteps", "100000", "--eval-episodes", "0"],
        episodes=300,
        offline=["--feed", "windows", "--agent.segment-length", "20", "--updates", "500", "--eval-episodes", "0"],
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
        offline=["--feed", "windows", "--updates", "400", "--eval-episodes", "0"],
    ),
}


def main(names: tuple[str, ...] = tuple(CASES), runs: Path = Path("runs/any_dataset")) -> None:
    """Train, collect, train on what was collected, evaluate, tabulate.

    Args:
        names: which environments.
        runs: where the runs go; what is there already isn't done again.
    """
    rows = [row for name in names for row in _rows(CASES[name], runs / name)]
    text = markdown_table(["data from", "agent", "return", "normalised", "CPU s, training"], rows, left=2) + "\n"
    print(text)
    (FOLDER / f"table{'' if names == tuple(CASES) else '-' + '-'.join(names)}.md").write_text(text)


def _rows(case: Case, runs: Path) -> list[list[str]]:
    online = runs / case.online[0]
    _train(online, [case.env, *case.online, *case.options])
    shares = [f"{online}=4", *case.others]
    command = [
        sys.executable,
        "-m",
        "rmt_rl",
        "collect",
        case.env,
        *case.options,
        "--episodes",
        str(case.episodes),
    ]
    made = subprocess.run([*command, "--policy", *shares, "--sample"], check=True, capture_output=True, text=True)
    identity = made.stdout.split()[-1]
    print(f"{identity}\n", flush=True)
    for agent in ("rate", "bc"):
        _train(runs / agent, ["--dataset", identity, agent, *case.offline])
    references = read_references([identity])
    assert references is not None
    rows = [[case.env, "random", f"{references.random:.1f}", "0", ""]]
    for run in (online, runs / "rate", runs / "bc"):
        (result,) = read_results(run)
        reached = f"{result['mean_return']:.1f}" + bracketed(result["return_interval"], 1)
        normalised = f"{references.normalised(result['mean_return']):.2f}"
        rows.append([case.env, read_config(run).agent, reached, normalised, f"{cpu_seconds(run)['train']:.0f}"])
    return rows


def _train(run: Path, arguments: Sequence[str]) -> None:
    """Train and evaluate, unless that was done; a run that was stopped goes on."""
    if not (run / "config.toml").exists():
        spent(run, "train", rmt_rl("train", *arguments, "--out", str(run)))
    elif read_evaluation(run) is None:
        spent(run, "train", rmt_rl("train", "--resume", str(run)))
    if read_evaluation(run) is None:
        spent(run, "evaluate", rmt_rl("evaluate", str(run), "--episodes", "50"))


if __name__ == "__main__":
    tyro.cli(main)
