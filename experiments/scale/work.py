"""Updates of one process of a run, timed, with the sums over processes that they ask for."""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from rmt_rl.analysis.process_memory import MB, peak_mb, resident_mib
from rmt_rl.runs.options import make_config
from rmt_rl.training.segments import SegmentLearner

Values = dict[str, Any]
MIB = 1 << 20  # bytes
M_MMAP_THRESHOLD = -3  # of glibc's mallopt
KEPT = 1 << 16  # bytes; larger blocks are given back when they are freed, so that what is resident is in use


class Sums:
    """The sums over processes that were asked for.

    Attributes:
        count: number of them.
        bytes: of the tensors that were summed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0


@contextmanager
def counted_sums() -> Iterator[Sums]:
    """Count the sums over processes inside the block."""
    sums, original = Sums(), dist.all_reduce

    def counting(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        sums.count += 1
        sums.bytes += tensor.nbytes
        return original(tensor, *arguments, **named)

    dist.all_reduce = counting
    try:
        yield sums
    finally:
        dist.all_reduce = original


def measure(values: Values, updates: int) -> dict[str, float]:
    """Make an update to warm up, then `updates` more; return their cost for this process.

    Returns:
        Seconds, CPU seconds, real environment steps of the whole batch, sums over processes and their bytes, and the
        memory (MB) that this process holds now and has held at most, without what it held before.
    """
    before = resident_mib()
    config = make_config(values)
    learner = SegmentLearner(config)  # type: ignore[arg-type]
    learner.start()
    learner.advance()
    processes = learner.processes
    processes.wait()
    batches = [learner.feed.batch(learner.made + number) for number in range(updates)]
    with counted_sums() as sums:
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(updates):
            learner.advance()
            processes.any(False)  # as the training loop asks
        cpu_seconds = time.process_time() - cpu_began
        processes.wait()
        seconds = time.perf_counter() - began
    steps = sum(batch.steps for batch in batches)
    learner.close()
    return {
        "held_mb": (resident_mib() - before) * MIB / MB,
        "peak_mb": peak_mb() - before * MIB / MB,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": steps,
        "sums": sums.count / updates,
        "sum_bytes": sums.bytes / updates,
    }


def run_process(rank: int, count: int, port: int, values: Values, updates: int, folder: str) -> None:
    """Measure in one of several processes, as torchrun would start them; write JSON into a folder."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT)
    if count > 1:
        here = {"RANK": rank, "LOCAL_RANK": 0, "GROUP_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": 1}
        store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
        for name, value in {**here, **store, "TORCHELASTIC_RUN_ID": "scale"}.items():
            os.environ[name] = str(value)
    Path(folder, f"{rank}.json").write_text(json.dumps(measure(values, updates)), encoding="utf-8")


def in_processes(values: Values, updates: int) -> list[dict[str, float]]:
    """Measure a run in as many new processes as it has nodes; return what each of them measures."""
    count = values["training"]["num_nodes"]
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (count, store.port, values, updates, folder)
        spawn(run_process, arguments, nprocs=count)
        texts = [Path(folder, f"{rank}.json").read_text(encoding="utf-8") for rank in range(count)]
    return [json.loads(text) for text in texts]
