"""Work on one cell after the other in the process of the sweep, e.g. under a debugger."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rmt_rl.cli.cell import run_due
from rmt_rl.config import Frozen
from rmt_rl.sweeps.calls import Call, answer, result_of
from rmt_rl.sweeps.engine import Job, Outcome, Setting
from rmt_rl.sweeps.stored import local


class HereOptions(Frozen):
    """The engine has no options."""


class HereEngine:
    Config = HereOptions
    in_this_process = True

    def __init__(self, options: HereOptions, setting: Setting) -> None:
        self.note = ""
        self.capacity = 1
        self.jobs: deque[Job] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs

    def poll(self, seconds: float) -> list[Outcome]:
        if not self.jobs:
            return []
        job = self.jobs.popleft()
        with tempfile.TemporaryDirectory() as scratch:
            here = local(job, Path(scratch, "runs")) if job.store else job
            status = run_due(here, Path(scratch))
        return [Outcome(job.name, status, "see above" if status else "")]

    def running(self) -> set[str]:
        return set()

    def stop(self, name: str) -> None:
        """There is never anything to stop."""

    def results(self, calls: Sequence[Call]) -> Iterator[Any]:
        for call in calls:
            yield result_of(answer(call))

    def close(self) -> None:
        self.jobs.clear()


ENGINE = HereEngine
