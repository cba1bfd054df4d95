"""Processes on this machine, as many at once as its cores and GPUs allow."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from typing import Any

from pydantic import Field

from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.sweeps.calls import Call, answer, in_order
from rmt_rl.sweeps.engine import Job, Outcome, Setting, check_gpus
from rmt_rl.sweeps.process import CellProcess

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_LOOK = 0.05  # seconds between two looks at the processes


class LocalOptions(Frozen):
    """Options of the engine."""

    jobs: int | None = Field(None, ge=1, description="runs at once (unset: as many as cores and GPUs allow)")


class LocalEngine:
    """Starts a process for each job; a process that is killed leaves its cell to the next start of the sweep."""

    Config = LocalOptions

    def __init__(self, options: LocalOptions, setting: Setting) -> None:
        self.note = ""
        self._free = _places(options, setting)
        self.capacity = len(self._free)
        self._queue: deque[Job] = deque()
        self._processes: dict[str, CellProcess] = {}
        self._places: dict[str, str] = {}  # the GPUs of each running job
        self._unbegun: list[Outcome] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        self._queue += jobs
        self._fill()

    def poll(self, seconds: float) -> list[Outcome]:
        latest = time.monotonic() + seconds
        while True:
            outcomes = self._ended()
            self._fill()
            if outcomes or time.monotonic() > latest:
                return outcomes
            time.sleep(_LOOK)

    def running(self) -> set[str]:
        return set(self._processes)

    def stop(self, name: str) -> None:
        if name in self._processes:
            self._processes[name].stop()
            return
        waiting = [job for job in self._queue if job.name == name]
        for job in waiting:
            self._queue.remove(job)
            self._unbegun.append(Outcome(name, 143, "stopped before it began"))

    def results(self, calls: Sequence[Call]) -> Iterator[Any]:
        """Make the calls in processes of their own, which a signal of the terminal doesn't reach."""
        before = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        places = context.SimpleQueue()
        for place in self._free:
            places.put(place)
        with ProcessPoolExecutor(self.capacity, context, initializer=_begin, initargs=(places,)) as pool:
            try:
                yield from in_order(lambda call: pool.submit(answer, call), _waited, calls, 2 * self.capacity)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - before:
                    process.terminate()
                raise

    def close(self) -> None:
        self._queue.clear()
        for process in self._processes.values():
            process.stop()
        for process in self._processes.values():
            process.end()

    def _ended(self) -> list[Outcome]:
        ended, self._unbegun = self._unbegun, []
        for name, process in list(self._processes.items()):
            outcome = process.poll()
            if outcome is not None:
                ended.append(outcome)
                del self._processes[name]
                self._free.append(self._places.pop(name))
        return ended

    def _fill(self) -> None:
        while self._queue and self._free:
            job = self._queue.popleft()
            place = self._free.pop(0)
            variables = {_VISIBLE: place} if job.gpus else {}
            self._processes[job.name] = CellProcess(job, variables)
            self._places[job.name] = place


def _begin(places: SimpleQueue[str]) -> None:
    """Take the GPUs of one place, and leave Ctrl-C to the process that waits for the results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[_VISIBLE] = places.get()


def _waited(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UsageError(
            "a process that played a shard was killed, perhaps for lack of memory; choose fewer --jobs, "
            "or more --shards"
        ) from error


def _places(options: LocalOptions, setting: Setting) -> list[str]:
    """Return the GPUs of each job that can run at once, as in CUDA_VISIBLE_DEVICES; empty texts without GPUs.

    Raises:
        UsageError: the machine has fewer cores or GPUs than one run needs.
    """
    by_cores = max(1, _cores() // setting.cores)
    places = _shares_of_gpus(setting.gpus) if setting.gpus else [""] * by_cores
    most = min(by_cores, len(places)) if options.jobs is None else options.jobs
    if setting.gpus and options.jobs is not None and options.jobs > len(places):
        raise UsageError(f"jobs={options.jobs}: with gpus={setting.gpus} only {len(places)} runs fit; choose fewer")
    return places[:most] if setting.gpus else [""] * most


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shares_of_gpus(gpus: float) -> list[str]:
    """Return for each run that fits on the GPUs at once which of them it gets."""
    check_gpus(gpus)
    devices = _gpus()
    if gpus <= 1:
        each = int(1 / gpus + 1e-9)
        shares = [device for _ in range(each) for device in devices]
    else:
        size = int(gpus)
        shares = [",".join(devices[start : start + size]) for start in range(0, len(devices) - size + 1, size)]
    if not shares:
        raise UsageError(f"gpus={gpus}: this machine has {len(devices)} GPUs; choose fewer, or 0 for the CPU")
    return shares


def _gpus() -> list[str]:
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]


ENGINE = LocalEngine
