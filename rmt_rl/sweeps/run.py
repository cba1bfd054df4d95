"""Execution of a sweep by an engine: what is finished stays, the rest is done, failures stop nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rmt_rl import signals
from rmt_rl.errors import UsageError
from rmt_rl.files import check_is_text, check_writable
from rmt_rl.locks import Busy, held
from rmt_rl.sweeps.engine import OWN, Engine, Job, Outcome
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.sweeps.state import check_same_config, is_finished

_LOCK = "lock"
_VARIABLES = ("MINARI_DATASETS_PATH",)  # that processes on other machines need
INTERVAL = 0.5  # seconds between two reports of the runs that are under way


class Report(Protocol):
    """Shows how far a sweep is."""

    def kept(self, job: Job) -> None:
        """Tell of a cell that was finished before."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Tell of a job's end."""

    def under_way(self, running: set[str]) -> None:
        """Show the jobs that run now."""


class Shared(Protocol):
    """The settings that the runs of a sweep have in common."""

    @property
    def out(self) -> Path:
        """The folder of the runs."""

    @property
    def cores(self) -> int:
        """Threads of each run."""

    @property
    def gpus(self) -> float:
        """GPUs of each run, or the share of one."""

    @property
    def store(self) -> str:
        """The URL that keeps the runs; "" if `out` does."""

    @property
    def scratch(self) -> Path | None:
        """The folder for runs on the machine that works on them, with `store`; None: that for temporary files."""


def job_of(cell: Cell, sweep: Shared, modules: Sequence[str] = (), trust_spec: bool = False) -> Job:
    """Return the job of a cell."""
    out = sweep.out.absolute()
    return Job(
        name=cell.name,
        run=out / cell.name,
        config=cell.config.model_dump(mode="json", exclude_none=True),
        evaluations=cell.evaluations,
        modules=tuple(modules),
        trust_spec=trust_spec,
        cores=sweep.cores,
        gpus=sweep.gpus,
        folder=Path.cwd(),
        log=out / OWN / f"{cell.name}.log",
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        store=sweep.store,
        scratch=sweep.scratch.absolute() if sweep.scratch else None,
    )


@contextmanager
def claimed(out: Path) -> Iterator[Path]:
    """Keep other sweeps from a folder inside the block; yield the folder of the sweep's own files.

    Folders that are empty in the end are removed.

    Raises:
        UsageError: another sweep works there, or the folder can't be written to.
    """
    check_is_text(out)
    check_writable(out, "choose another folder by --out")
    own = out / OWN
    try:
        with held(own / _LOCK):
            yield own
    except Busy as busy:
        raise UsageError(
            f"{out} is in use by a sweep, {busy}; wait for it or stop it, or choose another folder by --out"
        ) from None
    finally:
        with suppress(OSError):  # a folder that isn't empty stays
            own.rmdir()
            out.rmdir()


def unfinished(cells: Sequence[Cell], jobs: Sequence[Job], report: Report) -> list[Job]:
    """Return the jobs that have something left to do, after a check that no folder holds another run.

    Raises:
        UsageError: a folder holds a run of other options.
    """
    for cell, job in zip(cells, jobs, strict=True):
        check_same_config(job.run, cell.config)
    return due_of(jobs, report)


def due_of(jobs: Sequence[Job], report: Report) -> list[Job]:
    """Return the jobs that have something left to do, and report the others."""
    due = []
    for job in jobs:
        if is_finished(job):
            report.kept(job)
        else:
            due.append(job)
    return due


def execute(jobs: Sequence[Job], engine: Engine, report: Report) -> list[Outcome]:
    """Work on all jobs; return the outcomes of those that failed.

    A signal that stops the sweep stops its jobs, which save their work.
    """
    by_name = {job.name: job for job in jobs}
    failed = []
    waiting = set(by_name)
    engine.submit(jobs)
    while waiting:
        for outcome in engine.poll(INTERVAL):
            waiting.discard(outcome.name)
            report.ended(by_name[outcome.name], outcome)
            if not outcome.is_done:
                failed.append(outcome)
        report.under_way(engine.running() & waiting)
    return failed


@contextmanager
def closing_engine(engine: Engine) -> Iterator[Engine]:
    """Close an engine in the end, its jobs' work saved. A second signal stops the waiting."""
    try:
        yield engine
    except KeyboardInterrupt:
        number = signals.requested()
        if number is None:
            raise
        raise signals.Stopped(number) from None  # libraries in C turn every signal into Ctrl-C
    finally:
        with signals.deferred():
            engine.close()
