"""Rolls runs out in corridors of a million steps: python -m experiments.memory_family.million RUN ...

Prints a line whenever a tenth is done (CPU seconds since the last, resident memory), and writes each run's result to
`million.json`, from which it makes `million.md`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.process_memory import resident_mib
from rmt_rl.errors import UsageError, explained
from rmt_rl.files import write_atomically
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import load_agent
from rmt_rl.runs.folder import read_config
from rmt_rl.statistics import success_interval

FOLDER = Path(__file__).parent
SIDES = {1: "up", -1: "down"}  # of the goal, by the hint
TENTHS = 10
HEAD = [
    "run",
    "steps",
    "success, goal up",
    "goal down",
    "95% interval",
    "CPU s",
    "steps a CPU s, first / last tenth",
    "MiB, first / last tenth",
]


class Result(TypedDict):
    """A run's result, as `million.json` holds it.

    Attributes:
        agent: name of the agent.
        seed: of its training.
        length: cells of the corridor.
        lanes: environments played at once, an episode in each.
        right: for each side of the goal, whether each episode ended there.
        cpu_seconds: CPU seconds of each tenth of the steps.
        resident_mb: resident memory after each tenth, in MiB.
    """

    agent: str
    seed: int
    length: int
    lanes: int
    right: dict[str, list[bool]]
    cpu_seconds: list[float]
    resident_mb: list[float]


def main(runs: Positional[tuple[Path, ...]], length: int = 1_000_000, lanes: int = 16, seed: int = 1000) -> None:
    """Play one episode in each environment, all in lock-step, on one thread.

    Args:
        runs: folders of T-Maze runs.
        length: cells of the corridor, at least 10.
        lanes: environments played at once.
        seed: of the environments.
    """
    if length < TENTHS:
        raise UsageError(f"length={length} can't be reported in tenths: give at least {TENTHS}")
    torch.set_num_threads(1)
    path = FOLDER / "million.json"
    results: dict[str, Result] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for run in runs:
        results[f"{run.name}, {length:,}"] = play(run, length, lanes, seed)
        write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(FOLDER / "million.md", million_table(results).encode())
    print(million_table(results))


def play(run: Path, length: int, lanes: int, seed: int) -> Result:
    """Roll a run out, and return its result."""
    config = read_config(run)
    result: Result = {
        "agent": config.agent,
        "seed": config.seed,
        "length": length,
        "lanes": lanes,
        "right": {side: [] for side in SIDES.values()},
        "cpu_seconds": [],
        "resident_mb": [],
    }
    agent = load_agent(run)
    with closing(make_vec_env(load_task("tmaze"), {"corridor_length": length}, lanes)) as env:
        began = time.process_time()
        hints = np.zeros(lanes)
        for count, step in enumerate(rollout(agent, env, lanes, seed), start=1):
            if count == 1:
                hints = step.observations[:, 1].copy()
            for lane in np.flatnonzero(step.ends):
                side = SIDES[int(hints[lane])]
                result["right"][side].append(bool(step.rewards[lane] > 0))
            # An episode may last two steps longer.
            if count % (length // TENTHS) == 0 and len(result["cpu_seconds"]) < TENTHS:
                now = time.process_time()
                _note_tenth(result, f"{run.name}: {count:,} steps", now - began)
                began = now
    return result


def _note_tenth(result: Result, title: str, seconds: float) -> None:
    memory = resident_mib()
    result["cpu_seconds"].append(seconds)
    result["resident_mb"].append(memory)
    print(f"{title}, {seconds:.0f} CPU s, {memory:.0f} MiB", flush=True)


def million_table(results: Mapping[str, Result]) -> str:
    """Return a Markdown table, one row for each run."""
    rows = [_row(name, result) for name, result in results.items()]
    return markdown_table(HEAD, rows) + "\n"


def _row(name: str, result: Result) -> list[str]:
    run, _, _ = name.partition(",")
    by_side = [result["right"][side] for side in SIDES.values()]
    low, high = success_interval(sum(map(sum, by_side)), sum(map(len, by_side)))
    seconds, memory = result["cpu_seconds"], result["resident_mb"]
    steps = result["length"] // TENTHS * result["lanes"]  # of a tenth
    return [
        run,
        f"{result['length']:,}",
        *(f"{sum(right)} of {len(right)}" for right in by_side),
        f"{low:.2f} to {high:.2f}",
        f"{sum(seconds):,.0f}",
        f"{steps / seconds[0]:,.0f} / {steps / seconds[-1]:,.0f}",
        f"{memory[0]:.0f} / {memory[-1]:.0f}",
    ]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
