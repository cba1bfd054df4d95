"""The interface of engines: jobs are submitted, and their outcomes are asked for until all have one."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import Field, JsonValue

from rmt_rl.config import Frozen, Strings
from rmt_rl.errors import UsageError
from rmt_rl.sweeps.calls import Call

OWN = ".sweep"  # the folder of the sweep's own files among those of the runs: logs, and the engine's files


class PlannedEvaluation(Frozen):
    """An evaluation of a trained run: in its own environment, or over values of the environment's options."""

    vary: Strings = Field((), description='options to vary and their values, e.g. ["corridor_length=90,900"]')
    episodes: int = Field(100, ge=1, description="episodes for each value")


class Job(Frozen):
    """The work on one cell: train its run as far as that isn't done, then make the evaluations that aren't.

    Attributes:
        name: the cell's name.
        run: the run's folder.
        config: the run's options, as in its `config.toml`.
        evaluations: evaluations of the trained run.
        modules: modules to import first.
        trust_spec: let files give environments any arguments.
        cores: threads of the run.
        gpus: GPUs of the run, or the share of one; 0: none.
        folder: the current folder of its process, if there is such a folder.
        variables: environment variables of its process.
        log: the file that its output is appended to.
        store: the URL below which the run is kept, as NAME, and its log; empty if `run` is on shared storage. A process
            that works on the job has `run` and `log` in a local folder of its own.
        scratch: where such local folders are made; None: the machine's folder of temporary files.
    """

    name: str
    run: Path
    config: dict[str, JsonValue]
    evaluations: tuple[PlannedEvaluation, ...] = ()
    modules: tuple[str, ...] = ()
    trust_spec: bool = False
    cores: int = Field(1, ge=1)
    gpus: float = Field(0.0, ge=0)
    folder: Path
    log: Path
    variables: dict[str, str] = Field({})
    store: str = ""
    scratch: Path | None = None


class Outcome(NamedTuple):
    """The end of a job.

    Attributes:
        name: the cell's name.
        status: exit status of its process, as shells report it: 0 if all is done, 128 + n for signal n.
        error: one line about the error; empty if there was none.
    """

    name: str
    status: int
    error: str = ""

    @property
    def is_done(self) -> bool:
        """True if the cell is finished."""
        return self.status == 0

    @property
    def is_stopped(self) -> bool:
        """True if a signal asked the process to end, so that it has saved its work."""
        asked = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM))
        return self.status in [128 + number for number in asked]


class Setting(NamedTuple):
    """Facts of a sweep that its engine needs.

    Attributes:
        cores: cores of each run.
        gpus: GPUs of each run, or the share of one.
        folder: a folder for the engine's own files, on storage that all machines share.
    """

    cores: int
    gpus: float
    folder: Path


class Engine(Protocol):
    """Executes jobs. Its class has `Config`, the options of the engine, and is called with these and a `Setting`."""

    note: str
    """One line for the user, such as a dashboard's address; empty if there is none."""

    @property
    def capacity(self) -> int:
        """Number of jobs that can run at once; at least 1."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs."""

    def poll(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of jobs that have ended since the last call; wait so long for the first."""

    def running(self) -> set[str]:
        """Return the names of the jobs that run now, as far as that is known."""

    def stop(self, name: str) -> None:
        """Ask a job to save its work and end, or not to begin. It has an outcome like others."""

    def results(self, calls: Sequence[Call]) -> Iterator[Any]:
        """Make calls on any machine and yield their results in order.

        Raises:
            UsageError: a call raised it, or its process ended.
        """

    def close(self) -> None:
        """Stop all jobs, and wait until their work is saved."""


class EngineClass(Protocol):
    """The class of an engine.

    An engine that works on runs in the process of the sweep says so by an attribute `in_this_process = True`.
    """

    Config: type[Frozen]

    def __call__(self, options: Any, setting: Setting) -> Engine:
        """Return the engine, ready for jobs."""


def check_gpus(gpus: float) -> None:
    """Raise a UsageError unless the number is a share of one GPU, or whole."""
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"gpus={gpus}: a run has a share of one GPU or whole ones; choose a whole number or at most 1")
