"""A sweep: configs that are trained with several seeds and evaluated, by the `rmt-rl` commands that a user would type.

Every command is a process with one thread. Finished work isn't repeated: a sweep that was stopped continues where it
stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from rmt_rl import signals
from rmt_rl.acting.evaluate import parse_vary
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.flags import parse
from rmt_rl.reading import parse_json, read_text
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.folder import CONFIG, read_config
from rmt_rl.terminal import say
from rmt_rl.training.datasets import open_data

CPU_SECONDS = "cpu.json"  # in the folder of each run of a sweep
Phase = Literal["train", "evaluate"]
_running: set[int] = set()  # processes of commands that haven't ended


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation of a trained run, in the environment of its training or over a range of one of its options.

    Attributes:
        vary: the option to vary and its values, e.g. "corridor_length=90,900"; None: the training environment.
        episodes: episodes for each value.
    """

    vary: str | None = None
    episodes: int = 100

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of `rmt-rl evaluate`."""
        vary = [] if self.vary is None else ["--vary", self.vary]
        return [*vary, "--episodes", str(self.episodes)]

    def is_done(self, run: Path) -> bool:
        """Tell whether the run's `evaluation.json` has the results of all values."""
        tested = []
        for result in read_results(run):
            is_whole = len(result["episodes"]) == self.episodes
            if is_whole:
                tested.append(result["options"])
        if self.vary is None:
            return {} in tested
        ((name, values),) = parse_vary([self.vary]).items()
        return all({name: value} in tested for value in values)


@dataclass(frozen=True)
class Sweep:
    """Configs and the seeds with which each is trained.

    Attributes:
        configs: for each config file, the evaluations of its runs.
        seeds: training seeds.
        runs: folder of the runs; each run's is named CONFIG-SEED.
        jobs: number of processes at once.
        options: further arguments of every `rmt-rl train`.
    """

    configs: Mapping[Path, Sequence[EvaluationPlan]]
    seeds: Sequence[int]
    runs: Path
    jobs: int = 1
    options: Sequence[str] = ()

    def run(self) -> list[Path]:
        """Train and evaluate all that isn't done yet; return the folders of all runs, those of one seed together.

        A signal that stops the sweep stops its commands, which save their work.
        """
        self._open_data_sets()
        pairs = product(self.seeds, self.configs)
        seeds, configs = zip(*pairs, strict=True)
        with signals.heard(), ThreadPoolExecutor(self.jobs) as pool:
            runs = pool.map(self._run, configs, seeds)
            try:
                return list(runs)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                _stop_running()
                raise

    def _run(self, config: Path, seed: int) -> Path:
        run = self.runs / f"{config.stem}-{seed}"
        options = [*self.options, "--seed", str(seed)]
        has_begun = (run / CONFIG).exists()
        if has_begun and read_config(run) != _config_with(config, options):
            raise UsageError(f"{run} is of another config than {config}; remove it or choose another folder of runs")
        training = ["--config", str(config), *options]
        train_and_evaluate(run, training, self.configs[config])
        return run

    def _open_data_sets(self) -> None:
        """Collect the data sets one after the other, so that no two processes collect the same at once."""
        for file in self.configs:
            config = _config_with(file, self.options)
            if config.data_options is not None:
                open_data(config)


def _config_with(file: Path, options: Sequence[str]) -> Any:
    """Return the config of a file, changed by options of the command line."""
    config = read_config(file)
    return parse(type(config), options, "sweep", "", config)


def train_and_evaluate(run: Path, training: Sequence[str], plans: Sequence[EvaluationPlan]) -> None:
    """Make a run, as far as that isn't done.

    Args:
        run: its folder.
        training: arguments of `rmt-rl train`, but for `--out`.
        plans: its evaluations.
    """
    due = [plan for plan in plans if not plan.is_done(run)]
    has_begun = (run / CONFIG).exists()
    if not has_begun:
        run_command(["train", *training, "--out", str(run)], run, "train")
    elif due:  # its training may have been stopped; a finished one makes no more updates
        run_command(["train", "--resume", str(run)], run, "train")
    for plan in due:
        run_command(["evaluate", str(run), *plan.arguments], run, "evaluate")


def run_command(arguments: Sequence[str], run: Path, phase: Phase) -> None:
    """Run an `rmt-rl` command on one thread; print the command, its output and its time.

    Args:
        arguments: of `rmt-rl`.
        run: folder of the run, where the command's CPU seconds are added to those of its phase.
        phase: to train or to evaluate.

    Raises:
        UsageError: the command failed; the message holds its error output.
    """
    text = f"rmt-rl {' '.join(arguments)}"
    began = time.perf_counter()
    command = [sys.executable, "-P", "-m", "rmt_rl", *arguments]  # -P: no imports from the current folder
    variables = {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            env=os.environ | variables,
            stdout=output,
            stderr=errors,
        )
        _running.add(process.pid)
        _, status, usage = os.wait4(process.pid, 0)  # the only way to one child's own CPU time
        _running.discard(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        printed = output.read().decode(errors="replace")
        complaint = errors.read().decode(errors="replace")
    seconds = usage.ru_utime + usage.ru_stime
    wall_clock = time.perf_counter() - began
    say(f"$ {text}\n{printed}({wall_clock:.0f} s, CPU {seconds:.0f} s)\n", flush=True)
    if process.returncode:
        raise UsageError(f"{text} failed:\n{complaint}")
    _add_cpu_seconds(run, phase, seconds)


def _stop_running() -> None:
    """Ask the processes of all commands to end."""
    for process in tuple(_running):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def cpu_seconds(run: Path) -> dict[str, float]:
    """Return the CPU seconds that a run of a sweep has taken so far, to train and to evaluate."""
    path = run / CPU_SECONDS
    seconds = {"train": 0.0, "evaluate": 0.0}
    if path.exists():
        saved = parse_json(read_text(path))
        seconds |= saved
    return seconds


def _add_cpu_seconds(run: Path, phase: Phase, seconds: float) -> None:
    path = run / CPU_SECONDS
    total = cpu_seconds(run)
    total[phase] += seconds
    text = json.dumps(total)
    write_atomically(path, text.encode())


def check_named(only: Sequence[str], names: Sequence[str]) -> None:
    """Raise an error if a name of `--only` isn't among the names that there are."""
    unknown = [name for name in only if name not in names]
    if unknown:
        given = ", ".join(unknown)
        known = ", ".join(names)
        raise UsageError(f"only={given}: nothing is named so; there are {known}")
