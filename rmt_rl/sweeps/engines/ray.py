"""Ray: on this machine, or on a cluster by --address; what a lost node ran goes on on another."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import; it would report to Ray's makers

import ray
from pydantic import Field

from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.sweeps.calls import Call, answer, in_order
from rmt_rl.sweeps.engine import Job, Outcome, Setting
from rmt_rl.sweeps.process import work_on
from rmt_rl.terminal import one_line

EXTRA = "sweep"
_LOCALHOST = "127.0.0.1"
_HERE = "local"  # Ray's word for an instance of its own
_GRACE = 60.0  # seconds in which stopped jobs save their work
_PATIENCE = 10.0  # seconds to reach a cluster
_FOREVER = -1  # retries of a task whose node or worker died


class RayOptions(Frozen):
    """Options of the engine."""

    address: str | None = Field(None, description="a cluster to join, e.g. auto or HOST:6379 (unset: start Ray here)")
    dashboard: bool = Field(False, description="serve Ray's dashboard on this machine; it needs ray[default]")


class RayEngine:
    """Submits a task for each job, which waits for a process. A task whose node died is run again on another node."""

    Config = RayOptions

    def __init__(self, options: RayOptions, setting: Setting) -> None:
        with _signals_kept():
            url = _start(options)
        self.note = f"Ray's dashboard: http://{url}" if url else ""
        self.capacity = _fitting(setting)
        remote = ray.remote(max_retries=_FOREVER, num_cpus=setting.cores, num_gpus=setting.gpus)
        self._task: Any = remote(work_on)
        self._call: Any = remote(answer)
        self._jobs: dict[Any, Job] = {}  # by the reference of their task

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.log.unlink(missing_ok=True)  # it appears again when the job begins, see `running`
            self._jobs[self._task.options(name=job.name).remote(job)] = job

    def poll(self, seconds: float) -> list[Outcome]:
        ready, _ = ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        return [_outcome(self._jobs.pop(task), task) for task in ready]

    def running(self) -> set[str]:
        return {job.name for job in self._jobs.values() if job.log.exists()}

    def stop(self, name: str) -> None:
        for task, job in self._jobs.items():
            if job.name == name:
                ray.cancel(task)

    def results(self, calls: Sequence[Call]) -> Iterator[Any]:
        return in_order(self._call.remote, ray.get, calls, 2 * self.capacity)

    def close(self) -> None:
        for task in self._jobs:
            ray.cancel(task)
        if self._jobs:
            ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=_GRACE)
        with _signals_kept():
            ray.shutdown()


def _fitting(setting: Setting) -> int:
    """Return the number of jobs that fit on the cluster at once.

    Raises:
        UsageError: none fits.
    """
    resources: Any = ray.cluster_resources  # published without types
    there_are = resources()
    cores, gpus = there_are.get("CPU", 0), there_are.get("GPU", 0)
    by_cores = cores / setting.cores
    by_gpus = gpus / setting.gpus if setting.gpus else by_cores
    fitting = int(min(by_cores, by_gpus))
    if not fitting:
        raise UsageError(
            f"cores={setting.cores}, gpus={setting.gpus}: Ray has {cores:g} cores and {gpus:g} GPUs; choose fewer"
        )
    return fitting


def _start(options: RayOptions) -> str:
    """Start Ray, or join a cluster; return the dashboard's address, or an empty text.

    Raises:
        UsageError: there is no cluster at the address.
    """
    address = options.address or os.environ.get("RAY_ADDRESS", _HERE)
    _check_reachable(address)
    own: dict[str, Any] = {"include_dashboard": options.dashboard, "_node_ip_address": _LOCALHOST}
    try:
        context = ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(own if address == _HERE else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"address={address}: Ray can't be used ({one_line(str(error))}); see docs/scale.md") from error
    return context.dashboard_url or ""


def _check_reachable(address: str) -> None:
    """Raise a UsageError if nothing listens at HOST:PORT, for which Ray would wait many minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"address={address}: no cluster can be reached ({error}); see docs/scale.md") from None


def _outcome(job: Job, task: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(task)
    except ray.exceptions.TaskCancelledError:
        return Outcome(job.name, 128 + signal.SIGTERM, "stopped")
    except (ray.exceptions.RayError, KeyboardInterrupt) as error:
        return Outcome(job.name, 1, one_line(str(error)))
    return outcome


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put signal handlers back that Ray replaces inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # it wasn't set by Python
                signal.signal(number, handler)


ENGINE = RayEngine
