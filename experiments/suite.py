"""Trains and evaluates a folder of configs over seeds, and writes its table and pictures.

Every step is the `rmt-rl` command that a user would type, one process with one thread each. What is finished isn't
done again: a suite that was stopped goes on where it stood.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rmt_rl.evaluate import read_evaluation
from rmt_rl.plot import plot, table


@dataclass(frozen=True)
class Sweep:
    """An evaluation: the option to vary, e.g. "corridor_length=90,900", and episodes for each value."""

    vary: str
    episodes: int = 100


@dataclass(frozen=True)
class Suite:
    """Configs by their TOML files, and how each is evaluated.

    Attributes:
        configs: for each config file, the sweeps to evaluate its runs on.
        seeds: training seeds.
        runs: folder of the runs.
        jobs: processes at once.
    """

    configs: Mapping[Path, Sequence[Sweep]]
    seeds: Sequence[int]
    runs: Path
    jobs: int = 1

    def run(self) -> list[Path]:
        """Train and evaluate whatever isn't done yet; returns the folders of all runs."""
        cells = [(config, seed) for seed in self.seeds for config in self.configs]
        _prepare_data(list(self.configs))
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(lambda cell: self._one(*cell), cells))

    def _one(self, config: Path, seed: int) -> Path:
        run = self.runs / f"{config.stem}-{seed}"
        due = [sweep for sweep in self.configs[config] if not _evaluated(run, sweep)]
        if not (run / "config.toml").exists():
            rmt_rl("train", "--config", str(config), "--seed", str(seed), "--out", str(run))
        elif due:  # it may have been stopped; a finished run makes no more updates
            rmt_rl("train", "--resume", str(run))
        for sweep in due:
            rmt_rl("evaluate", str(run), "--vary", sweep.vary, "--episodes", str(sweep.episodes))
        return run


def write_results(runs: Sequence[Path], folder: Path) -> str:
    """Write `table.md`, `learning.png` and `success.png` into a folder; returns the table."""
    text = table(runs)
    (folder / "table.md").write_text(text + "\n")
    plot(runs, folder / "learning.png", ["learning"])
    plot(runs, folder / "success.png", ["evaluation"])
    return text


def rmt_rl(*arguments: str) -> None:
    """Run an `rmt-rl` command on one thread; prints the command, its output and its time."""
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rmt_rl.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(f"$ rmt-rl {' '.join(arguments)}\n{done.stdout}({time.perf_counter() - began:.0f} s)\n", flush=True)
    if done.returncode:
        raise SystemExit(f"rmt-rl {' '.join(arguments)} failed:\n{done.stderr}")


def _prepare_data(configs: Sequence[Path]) -> None:
    """Collect the data sets first, one after the other, so that no two runs collect the same at once."""
    from rmt_rl.run import read_config
    from rmt_rl.train import open_data

    for config in configs:
        open_data(read_config(config))


def _evaluated(run: Path, sweep: Sweep) -> bool:
    """Whether all values of a sweep stand in the run's evaluation already."""
    record = read_evaluation(run) or {"results": []}
    name, _, values = sweep.vary.partition("=")
    results = [result for result in record["results"] if len(result["episodes"]) == sweep.episodes]
    return set(values.split(",")) <= {str(result["options"].get(name)) for result in results}
