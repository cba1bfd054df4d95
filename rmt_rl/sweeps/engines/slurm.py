"""Slurm, by submitit: an array of jobs; a preempted one saves its work and is queued again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import submitit
from pydantic import Field
from submitit.helpers import DelayedSubmission

from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.sweeps.calls import Call, answer, result_of
from rmt_rl.sweeps.engine import Job, Outcome, Setting
from rmt_rl.sweeps.process import CellProcess
from rmt_rl.terminal import one_line

EXTRA = "sweep"
_LOOK = 0.2  # seconds between two looks at the jobs
_GRACE = 60.0  # seconds in which stopped jobs save their work
_PLAIN = r"^[\w-]+=[\w.,:/@%+-]+$"  # an option of sbatch; whatever else would be part of a shell script
_ALWAYS = 1_000_000  # time limits after which a job is queued again


class SlurmOptions(Frozen):
    """Options of the engine."""

    cluster: Literal["slurm", "local"] = Field("slurm", description="local: processes on this machine, to try it out")
    timeout_min: int = Field(1440, ge=1, description="time limit of a job, minutes; then it is queued again")
    partition: str | None = Field(None, pattern=r"^[\w.,-]+$", description="partition, or several as a,b")
    mem_gb: float | None = Field(None, gt=0, description="memory of a job, GB (unset: the partition's default)")
    parallel: int = Field(256, ge=1, description="jobs of the array that run at once")
    sbatch: tuple[Annotated[str, Field(pattern=_PLAIN)], ...] = Field(
        (), description="further options of sbatch: account=mylab qos=low"
    )


class Work:
    """Works on a job inside of a batch job. submitit calls `checkpoint` before the batch job ends."""

    process: CellProcess | None = None

    def __call__(self, job: Job) -> Outcome:
        """Work on the job in a process of its own, to the end."""
        self.process = CellProcess(job)
        try:
            return self.process.wait()
        finally:
            self.process.end()

    def checkpoint(self, job: Job) -> DelayedSubmission:
        """Save the work; return what is left to do, which submitit queues again."""
        if self.process is not None:
            self.process.end()
        return DelayedSubmission(Work(), job)


class SlurmEngine:
    """Submits jobs as one array. The jobs go on if the sweep is killed; the next sweep waits for those that run."""

    Config = SlurmOptions

    def __init__(self, options: SlurmOptions, setting: Setting) -> None:
        self.note = ""
        self.capacity = options.parallel
        self._executor = _executor(options, setting)
        self._pending: dict[str, tuple[Job, Any]] = {}  # by name: the job and submitit's
        self._stopped: set[str] = set()

    def submit(self, jobs: Sequence[Job]) -> None:
        submitted = self._executor.map_array(Work(), jobs)
        for job, batch_job in zip(jobs, submitted, strict=True):
            self._pending[job.name] = job, batch_job

    def poll(self, seconds: float) -> list[Outcome]:
        latest = time.monotonic() + seconds
        while True:
            outcomes = self._ended()
            if outcomes or time.monotonic() > latest:
                return outcomes
            time.sleep(_LOOK)

    def running(self) -> set[str]:
        return {name for name, (_, batch_job) in self._pending.items() if batch_job.state == "RUNNING"}

    def stop(self, name: str) -> None:
        if name in self._pending:
            self._stopped.add(name)
            _, batch_job = self._pending[name]
            batch_job.cancel(check=False)

    def results(self, calls: Sequence[Call]) -> Iterator[Any]:
        batch_jobs = self._executor.map_array(answer, calls)
        try:
            for batch_job in batch_jobs:
                yield result_of(_answer(batch_job))
        finally:
            for batch_job in batch_jobs:
                if not batch_job.done():
                    batch_job.cancel(check=False)

    def close(self) -> None:
        for name in self._pending:
            self.stop(name)
        latest = time.monotonic() + _GRACE
        while self._pending and time.monotonic() < latest:
            self._ended()
            time.sleep(_LOOK)

    def _ended(self) -> list[Outcome]:
        outcomes = []
        for name, (job, batch_job) in list(self._pending.items()):
            if not batch_job.done():
                continue
            del self._pending[name]
            outcome = _outcome(job, batch_job)
            if outcome.is_stopped and name not in self._stopped:  # by SIGTERM, which Slurm sends first
                self.submit([job])
            else:
                outcomes.append(outcome)
        return outcomes


def _answer(batch_job: Any) -> Any:
    """Return the result of a batch job.

    Raises:
        UsageError: the batch job failed, or ended without a result.
    """
    try:
        return batch_job.result()
    except submitit.core.utils.UncompletedJobError as error:
        raise UsageError(
            f"a batch job that played a shard has no result; {batch_job.paths.stderr} says why; raise --mem-gb or "
            "--timeout-min, or choose more --shards"
        ) from error


def _outcome(job: Job, batch_job: Any) -> Outcome:
    error = batch_job.exception()
    if error is None:
        outcome: Outcome = batch_job.result()
        return outcome
    *_, last = ["", *filter(str.strip, str(error).splitlines())]
    return Outcome(job.name, 1, one_line(last))


def _executor(options: SlurmOptions, setting: Setting) -> Any:
    """Return submitit's executor.

    Raises:
        UsageError: this machine can't submit jobs, or runs ask for a share of a GPU.
    """
    if setting.gpus != int(setting.gpus):
        raise UsageError(f"gpus={setting.gpus}: Slurm gives whole GPUs; choose a whole number")
    try:
        executor = submitit.AutoExecutor(
            setting.folder / "slurm",
            cluster=options.cluster,
            slurm_max_num_timeout=_ALWAYS,
            local_max_num_timeout=_ALWAYS,
        )
    except RuntimeError as error:
        raise UsageError(f"engine=slurm can't be used here ({error}); start the sweep where sbatch is") from error
    given = dict(option.split("=", 1) for option in options.sbatch)
    memory = {} if options.mem_gb is None else {"mem_gb": options.mem_gb}
    partition = {} if options.partition is None else {"slurm_partition": options.partition}
    executor.update_parameters(
        name="rmt-rl",
        timeout_min=options.timeout_min,
        cpus_per_task=setting.cores,
        gpus_per_node=int(setting.gpus),
        slurm_array_parallelism=options.parallel,
        slurm_additional_parameters=given,
        **memory,
        **partition,
    )
    return executor


ENGINE = SlurmEngine
