"""Trains and evaluates a folder of configs over seeds, and writes its table and pictures.

Every step is the `rmt-rl` command that a user would type, one process with one thread each. What is finished isn't
done again: a suite that was stopped goes on where it stood.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.results import cpu_seconds, kept_rows, row, update_results
from rmt_rl.errors import UsageError, explained
from rmt_rl.flags import parse
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.options import OfflineRun, read_config
from rmt_rl.training.datasets import open_data


@dataclass(frozen=True)
class Sweep:
    """An evaluation: the option to vary, e.g. "corridor_length=90,900", and episodes for each value.

    Without one, the run is evaluated in the environment that it was trained in.
    """

    vary: str | None = None
    episodes: int = 100

    @property
    def arguments(self) -> list[str]:
        """Of `rmt-rl evaluate`."""
        return [*(["--vary", self.vary] if self.vary else []), "--episodes", str(self.episodes)]


@dataclass(frozen=True)
class Suite:
    """Configs by their TOML files, and how each is evaluated.

    Attributes:
        configs: for each config file, the sweeps to evaluate its runs on.
        seeds: training seeds.
        runs: folder of the runs.
        jobs: processes at once.
        options: further arguments of every `rmt-rl train`.
    """

    configs: Mapping[Path, Sequence[Sweep]]
    seeds: Sequence[int]
    runs: Path
    jobs: int = 1
    options: Sequence[str] = ()

    def run(self) -> list[Path]:
        """Train and evaluate whatever isn't done yet; returns the folders of all runs."""
        cells = [(config, seed) for seed in self.seeds for config in self.configs]
        self._prepare_data()
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(lambda cell: self._one(*cell), cells))

    def _one(self, config: Path, seed: int) -> Path:
        run = self.runs / f"{config.stem}-{seed}"
        self._check_same(config, seed, run)
        due = [sweep for sweep in self.configs[config] if not _evaluated(run, sweep)]
        if not (run / "config.toml").exists():
            train = ["--config", str(config), *self.options, "--seed", str(seed), "--out", str(run)]
            spent(run, "train", rmt_rl("train", *train))
        elif due:  # it may have been stopped; a finished run makes no more updates
            spent(run, "train", rmt_rl("train", "--resume", str(run)))
        for sweep in due:
            spent(run, "evaluate", rmt_rl("evaluate", str(run), *sweep.arguments))
        return run

    def _check_same(self, file: Path, seed: int, run: Path) -> None:
        """Never mix runs of an older config into a table."""
        if (run / "config.toml").exists():
            options = [*self.options, "--seed", str(seed)]
            default = read_config(file)
            if read_config(run) != parse(type(default), options, "suite", "", default):
                raise SystemExit(f"{run} is of another config than {file}; remove it or choose another folder of runs")

    def _prepare_data(self) -> None:
        """Collect the data sets first, one after the other, so that no two runs collect the same at once."""
        for file in self.configs:
            config = read_config(file)
            config = parse(type(config), self.options, "suite", "", config)
            if isinstance(config, OfflineRun):
                open_data(config)


def remake(configs: Mapping[Path, Sequence[Sweep]], folder: Path) -> None:
    """The command line of an experiment that is one suite: its table and pictures go into `folder`."""

    def main(only: tuple[str, ...] = (), seeds: int = 5, jobs: int = 2, runs: Path = Path("runs", folder.name)) -> None:
        """Train, evaluate, tabulate, plot.

        Args:
            only: just these configs, by their files' names, e.g. "rate"; what `results.jsonl` has of others is kept.
            seeds: how many training seeds, 0, 1, ...
            jobs: processes at once, one thread each.
            runs: where the runs go; what is there already isn't done again.
        """
        print(made_again(configs, folder, only, range(seeds), runs, jobs))

    with explained():
        tyro.cli(main)


def made_again(
    configs: Mapping[Path, Sequence[Sweep]],
    folder: Path,
    only: Sequence[str],
    seeds: Sequence[int],
    runs: Path,
    jobs: int,
) -> str:
    """Run all configs, or those that are named; remake what is in `folder`, and return its table.

    Raises:
        UsageError: there is no such config, no seed, or others' results aren't there to be kept.
    """
    check_named(only, [file.stem for file in configs])
    for name, count in (("seeds", len(seeds)), ("jobs", jobs)):
        if count < 1:
            raise UsageError(f"{name}={count}: give 1 or more")
    again = {file: sweeps for file, sweeps in configs.items() if not only or file.stem in only}
    kept = kept_rows(folder, [file for file in configs if file not in again])  # fails before anything is trained
    return update_results(folder, [*kept, *map(row, Suite(again, seeds, runs, jobs).run())], list(configs))


def check_named(only: Sequence[str], names: Sequence[str]) -> None:
    """Raise an error where one isn't among these names."""
    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"only={', '.join(unknown)}: nothing is named so; there are {', '.join(names)}")


def rmt_rl(*arguments: str) -> float:
    """Run an `rmt-rl` command on one thread; prints the command, its output and its times; returns its CPU seconds."""
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rmt_rl", *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # the only way to one child's own CPU time
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0), errors.seek(0)
        printed, complaint = output.read(), errors.read()
    cpu = usage.ru_utime + usage.ru_stime
    took = f"{time.perf_counter() - began:.0f} s, CPU {cpu:.0f} s"
    print(f"$ rmt-rl {' '.join(arguments)}\n{printed}({took})\n", flush=True)
    if process.returncode:
        raise SystemExit(f"rmt-rl {' '.join(arguments)} failed:\n{complaint}")
    return cpu


def spent(run: Path, what: str, seconds: float) -> None:
    """Note CPU seconds that a run took."""
    spent = cpu_seconds(run)
    spent[what] += seconds
    (run / "cpu.json").write_text(json.dumps(spent))


def _evaluated(run: Path, sweep: Sweep) -> bool:
    """Whether all values of a sweep stand in the run's evaluation already."""
    found = read_results(run)
    if sweep.vary is None:
        return any(not one["options"] and len(one["episodes"]) == sweep.episodes for one in found)
    name, _, values = sweep.vary.partition("=")
    results = [result for result in found if len(result["episodes"]) == sweep.episodes]
    return set(values.split(",")) <= {str(result["options"].get(name)) for result in results}
