"""Experiments: runs that an engine executes as the cells of a sweep, and the command line of a folder of configs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from rmt_rl import registry, signals
from rmt_rl.acting.evaluate import single_values
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.analysis.results import Experiment, ResultsFile, RunResult
from rmt_rl.cli.arguments import import_typed
from rmt_rl.cli.engines import opened_engine
from rmt_rl.cli.sweep_progress import SweepProgress, tell_failures
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError, check_named, explained
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.sweeps.engine import Job, Outcome, PlannedEvaluation, Setting
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.sweeps.run import claimed, execute, job_of, unfinished
from rmt_rl.sweeps.state import covers
from rmt_rl.terminal import complain, say
from rmt_rl.training.datasets import open_data

Plans = Sequence[PlannedEvaluation]


@dataclass(frozen=True)
class Execution:
    """The way in which the runs of an experiment are executed, one thread each.

    Attributes:
        jobs: runs at once on this machine.
        engine: an engine in the place of this machine's processes: ray, slurm or module:Name, see docs/scale.md.
        engine_options: options of this engine, e.g. address=auto, or partition=cpu timeout_min=240.
    """

    jobs: int = 2
    engine: str | None = None
    engine_options: tuple[str, ...] = ()

    def named(self) -> tuple[str, Frozen]:
        """Return the engine's name and its options.

        Raises:
            UsageError: there is no such engine, or an option doesn't fit it.
        """
        options: dict[str, Any] = {"jobs": self.jobs} if self.engine is None else {}
        options |= single_values(self.engine_options, "--engine-options")
        name = self.engine or "local"
        import_typed([name])
        return name, validated(registry.engine_class(name).Config, options)


TWO_AT_ONCE = Execution()
"""Two runs at once on this machine."""
ExecutionFlags = Annotated[Execution, tyro.conf.arg(name="")]
"""The flags of an `Execution`, as an argument of an experiment's function."""


@dataclass(frozen=True)
class Making:
    """The way in which an experiment makes runs whose results a file keeps, each as soon as it ends.

    Attributes:
        runs: folder of the runs; those that are finished aren't made again.
        again: make runs again whose results are stored.
        draw: make tables and pictures from the stored results and nothing else.
        execution: where runs are executed.
    """

    runs: Path
    again: bool = False
    draw: bool = False
    execution: ExecutionFlags = TWO_AT_ONCE


MakingFlags = Annotated[Making, tyro.conf.arg(name="")]
"""The flags of a `Making`, as an argument of an experiment's function."""


class _Folder(NamedTuple):
    """The folder of the runs, the cores and GPUs of each run, and no URL that keeps them."""

    out: Path
    cores: int = 1
    gpus: float = 0.0
    store: str = ""
    scratch: Path | None = None


def config_cells(
    configs: Mapping[Path, Plans],
    seeds: Sequence[int],
    env_options: Mapping[str, Any] | None = None,
    folder: str = "",
) -> list[Cell]:
    """Return a cell, named CONFIG-SEED, for each config file and seed; those of one seed stand together.

    Args:
        configs: for each config file, the evaluations of its runs.
        seeds: training seeds.
        env_options: options of the environment that take the place of the configs'.
        folder: a folder for these runs among those of the experiment, e.g. "easy/".
    """
    cells = []
    for seed in seeds:
        for file, plans in configs.items():
            values = read_config(file).model_dump(mode="json", exclude_none=True)
            values["seed"] = seed
            values["env_options"] |= env_options or {}
            cells.append(Cell(f"{folder}{file.stem}-{seed}", make_config(values), tuple(plans)))
    return cells


class _Keeping(SweepProgress):
    """Progress that also puts the results of each finished run into a file."""

    def __init__(self, out: Path, cells: int, file: ResultsFile) -> None:
        super().__init__(out, cells)
        self.file = file

    def kept(self, job: Job) -> None:
        super().kept(job)
        self._keep(job)

    def ended(self, job: Job, outcome: Outcome) -> None:
        super().ended(job, outcome)
        if outcome.is_done:
            self._keep(job)

    def _keep(self, job: Job) -> None:
        result = RunResult.of(job.run, job.name)
        self.file.put(result)


def missing_cells(cells: Sequence[Cell], file: ResultsFile) -> list[Cell]:
    """Return the cells of which a file has no results, or results of other options or evaluations."""
    stored = {result.name: result for result in file.read()}
    return [cell for cell in cells if cell.name not in stored or not _is_of(stored[cell.name], cell)]


def _is_of(result: RunResult, cell: Cell) -> bool:
    tested = [(setting.options, setting.episodes) for setting in result.evaluations]
    return not result.changed(cell.config) and all(covers(plan, tested) for plan in cell.evaluations)


def make_kept(cells: Sequence[Cell], file: ResultsFile, making: Making) -> None:
    """Make the runs whose results a file lacks, or all runs `again`; see `make_runs`."""
    due = cells if making.again else missing_cells(cells, file)
    make_runs(due, making.runs, making.execution, file=file)


def make_runs(
    cells: Sequence[Cell],
    out: Path,
    execution: Execution,
    modules: Sequence[str] = (),
    file: ResultsFile | None = None,
) -> list[Path]:
    """Train and evaluate, as far as that isn't done; return the folders of the runs.

    Their data sets are collected before. A signal stops the runs, which save their work. The next call goes on from
    there.

    Args:
        cells: the runs.
        out: the folder of their folders.
        execution: where they are executed.
        modules: modules that define agents or environments, named as module:Name.
        file: where the results of each run go as soon as the run is finished.

    Raises:
        UsageError: a folder holds another run or is in use, or a run failed.
        SystemExit: a signal stopped the runs.
    """
    folder = _Folder(out)
    jobs = [job_of(cell, folder, modules) for cell in cells]
    reported = SweepProgress(out, len(jobs)) if file is None else _Keeping(out, len(jobs), file)
    try:
        with signals.heard(), claimed(out) as own, reported as progress:
            due = unfinished(cells, jobs, progress)
            waiting = {job.name for job in due}
            collect_data_sets([cell for cell in cells if cell.name in waiting])
            setting = Setting(folder.cores, folder.gpus, own)
            failed = _execute(due, execution, setting, progress)
    except signals.Stopped as stopped:
        complain("stopped; the same command goes on from here")
        sys.exit(stopped.status)
    tell_failures(failed, own)
    if failed:
        raise UsageError(f"{len(failed)} of {len(jobs)} runs failed, see above; the same command makes them again")
    return [out / cell.name for cell in cells]


def collect_data_sets(cells: Sequence[Cell]) -> None:
    """Collect the data sets of runs, as far as they are missing, one after the other in this process.

    No run thus waits for the process of another one, and no run's CPU seconds include those of collecting.
    """
    collected = set()
    for cell in cells:
        ids = dataset_ids(cell.config)
        if isinstance(cell.config, OfflineRun) and ids not in collected:
            open_data(cell.config)
            collected.add(ids)


def _execute(due: Sequence[Job], execution: Execution, setting: Setting, progress: SweepProgress) -> list[Outcome]:
    """Work on the jobs; return the outcomes of those that failed."""
    if not due:
        return []
    name, options = execution.named()
    with opened_engine(name, options, setting) as engine:
        return execute(due, engine, progress)


def make_missing(
    experiment: Experiment, only: Sequence[str], seeds: Sequence[int], runs: Path, execution: Execution
) -> str:
    """Make the runs whose results aren't stored, of all configs or of those named in `only`; return the table.

    The table is of the results that there are in the end, so its configs may have different numbers of seeds.

    Raises:
        UsageError: there is no such config; or as `make_runs` does.
    """
    check_named(only, experiment.names)
    made = {file: plans for file, plans in experiment.configs.items() if not only or file.stem in only}
    cells = config_cells(made, seeds)
    make_kept(cells, experiment.file, Making(runs, execution=execution))
    results = experiment.file.read()
    return experiment.write([result for result in results if result.config in experiment.names])


def make_experiment(
    experiment: Experiment, only: Sequence[str], seeds: Sequence[int], runs: Path, execution: Execution
) -> str:
    """Make the runs of all configs, or of those named in `only`; write table and pictures, and return the table.

    Raises:
        UsageError: there is no such config, no seed, or no stored results of the configs that aren't made; or as
            `make_runs` does.
    """
    check_named(only, experiment.names)
    if not seeds:
        raise UsageError("seeds=0: give 1 or more")
    made = {}
    others = []
    for file, plans in experiment.configs.items():
        if not only or file.stem in only:
            made[file] = plans
        else:
            others.append(file)
    stored = experiment.stored(others)  # fails before anything is trained
    finished = make_runs(config_cells(made, seeds), runs, execution)
    return experiment.write([*stored, *map(RunResult.of, finished)])


def experiment_command(experiment: Experiment) -> None:
    """Read the command line of an experiment, and make it."""

    def main(
        only: tuple[str, ...] = (),
        seeds: int = 5,
        runs: Path = Path("runs", experiment.folder.name),
        missing: bool = False,
        draw: bool = False,
        execution: ExecutionFlags = TWO_AT_ONCE,
    ) -> None:
        """Train, evaluate, tabulate, plot.

        Args:
            only: just these configs, by their files' names, e.g. "rate"; what `results.jsonl` has of others is kept.
            seeds: number of training seeds, 0, 1, ...
            runs: folder of the runs; those that are finished aren't made again.
            missing: make just the runs that `results.jsonl` has no results of; it keeps each run's as they come.
            draw: make table and pictures from `results.jsonl` and nothing else.
            execution: where runs are executed.
        """
        if draw:
            say(experiment.draw())
        else:
            make = make_missing if missing else make_experiment
            say(make(experiment, only, range(seeds), runs, execution))

    with explained():
        tyro.cli(main)
