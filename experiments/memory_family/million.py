"""Rolls runs out in corridors of a million steps: python -m experiments.memory_family.million RUN ...

Prints a line whenever a tenth is done (CPU seconds since the last, resident memory), and writes each run's result to
`million.json`, from which it makes `million.md`.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from experiments.resident import resident_mb
from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import load_agent
from rmt_rl.runs.options import read_config
from rmt_rl.statistics import success_interval

FOLDER = Path(__file__).parent
SIDES = {1: "up", -1: "down"}


def main(runs: Positional[tuple[Path, ...]], length: int = 1_000_000, lanes: int = 16, seed: int = 1000) -> None:
    """Play one episode a lane, all lanes in lock-step, on one thread.

    Args:
        runs: folders of T-Maze runs.
        length: cells of the corridor, at least 10.
        lanes: episodes.
        seed: of the environment.
    """
    if length < 10:
        raise UsageError(f"length={length} can't be told in tenths: give at least 10")
    torch.set_num_threads(1)
    path = FOLDER / "million.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for run in runs:
        results[f"{run.name}, {length:,}"] = play(run, length, lanes, seed)
        write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(FOLDER / "million.md", table(results).encode())
    print(table(results))


def play(run: Path, length: int, lanes: int, seed: int) -> dict[str, Any]:
    """Success by the side of the goal, CPU seconds of each tenth, and resident memory (MB) after it."""
    agent = load_agent(run)
    seconds: list[float] = []
    memory: list[float] = []
    right: dict[str, list[bool]] = {side: [] for side in SIDES.values()}
    with closing(make_vec_env(load_task("tmaze"), {"corridor_length": length}, lanes)) as env:
        began, hints = time.process_time(), np.zeros(lanes)
        for number, step in enumerate(rollout(agent, env, lanes, seed)):
            if number == 0:
                hints = step.observations[:, 1].copy()
            for lane in np.flatnonzero(step.ends):
                right[SIDES[int(hints[lane])]].append(bool(step.rewards[lane] > 0))
            if (number + 1) % (length // 10) == 0 and len(seconds) < 10:  # an episode may last two steps longer
                now = time.process_time()
                seconds.append(now - began)
                memory.append(resident_mb())
                began = now
                print(f"{run.name}: {number + 1:,} steps, {seconds[-1]:.0f} CPU s, {memory[-1]:.0f} MB", flush=True)
    config = read_config(run)
    facts = {"agent": config.agent, "seed": config.seed, "length": length, "lanes": lanes}
    return facts | {"right": right, "cpu_seconds": seconds, "resident_mb": memory}


def table(results: dict[str, Any]) -> str:
    """Markdown, one row a run."""
    ends = "first / last tenth"
    head = ["run", "steps", "success, goal up", "goal down", "95% interval", "CPU s"]
    head += [f"steps a CPU s, {ends}", f"MB, {ends}"]
    rows = []
    for name, one in results.items():
        played = [*one["right"]["up"], *one["right"]["down"]]
        low, high = success_interval(sum(played), len(played))
        sides = [f"{sum(one['right'][side])} of {len(one['right'][side])}" for side in SIDES.values()]
        tenth = one["length"] // 10 * one["lanes"]
        speeds = f"{tenth / one['cpu_seconds'][0]:,.0f} / {tenth / one['cpu_seconds'][-1]:,.0f}"
        memory = f"{one['resident_mb'][0]:.0f} / {one['resident_mb'][-1]:.0f}"
        rows.append(
            [
                name.partition(",")[0],
                f"{one['length']:,}",
                *sides,
                f"{low:.2f} to {high:.2f}",
                f"{sum(one['cpu_seconds']):,.0f}",
                speeds,
                memory,
            ]
        )
    return markdown_table(head, rows) + "\n"


if __name__ == "__main__":
    tyro.cli(main)
