"""The process of a cell, which works on one job and saves its work when whoever started it ends.

The process reads the job from its standard input. That pipe stays open as long as the starter lives. The process stops
as by SIGTERM when the pipe is closed: by `stop`, or because the starter was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rmt_rl.files import append
from rmt_rl.reading import read_text
from rmt_rl.sweeps.engine import Job, Outcome
from rmt_rl.sweeps.stored import keep_log, local
from rmt_rl.terminal import one_line

WORKER = "rmt_rl.cli.cell"  # the module that such a process runs
_GPUS = "CUDA_VISIBLE_DEVICES"
_LONGEST_ERROR = 500  # characters
_LOOK = 0.1  # seconds between two looks at the process
_LOG_LIMIT = 2**26  # bytes of a log that is read


class CellProcess:
    """A process that works on a job.

    Args:
        job: the job.
        variables: environment variables besides those of this process.
    """

    def __init__(self, job: Job, variables: Mapping[str, str] | None = None) -> None:
        self._home = _home(job) if job.store else None
        self.job = job = local(job, Path(self._home.name)) if self._home else job
        self._log_start = _size(job)
        own = {"OMP_NUM_THREADS": str(job.cores), "PYTHONIOENCODING": "utf-8"}
        if not job.gpus:
            own[_GPUS] = ""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        append(job.log, "")
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER],  # -P: no imports from the current folder
                env=os.environ | own | job.variables | dict(variables or {}),
                cwd=job.folder if job.folder.is_dir() else None,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the sweep, which then stops its cells
            )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        with suppress(BrokenPipeError):  # the process has ended already
            self._pipe.write(job.model_dump_json().encode() + b"\n")
            self._pipe.flush()

    @property
    def number(self) -> int:
        """The number of the process."""
        return self._process.pid

    def poll(self) -> Outcome | None:
        """Return the outcome if the process has ended, else None."""
        code = self._process.poll()
        return None if code is None else self._outcome(code)

    def wait(self) -> Outcome:
        """Wait for the end of the process and return the outcome."""
        while True:
            outcome = self.poll()
            if outcome is not None:
                return outcome
            time.sleep(_LOOK)  # an exception that another thread sends to this one doesn't end a system call

    def stop(self) -> None:
        """Ask the process to save its work and end."""
        with suppress(OSError):
            self._pipe.close()

    def end(self) -> None:
        """Stop the process, and wait until its work is saved."""
        self.stop()
        self._process.wait()
        self._leave()

    def _outcome(self, code: int) -> Outcome:
        self.stop()
        error = self._error() if code else ""
        if code < 0 and self.job.store:
            keep_log(self.job)
        self._leave()
        if code < 0:
            number = -code
            return Outcome(self.job.name, 128 + number, f"the process was killed by signal {number}")
        return Outcome(self.job.name, code, error)

    def _leave(self) -> None:
        """Remove the local folder of a run that is kept at a URL."""
        if self._home is not None:
            self._home.cleanup()

    def _error(self) -> str:
        """Return the last line of what the process wrote, mostly its error message."""
        with suppress(OSError, ValueError):
            text = read_text(self.job.log, _LOG_LIMIT)[self._log_start :]
            *_, last = ["", *filter(str.strip, text.splitlines())]
            return one_line(last)[:_LONGEST_ERROR].removeprefix("error: ")
        return ""


def _home(job: Job) -> tempfile.TemporaryDirectory[str]:
    """Make a local folder for a run that is kept at a URL, and for its log."""
    if job.scratch is not None:
        job.scratch.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="rmt-rl-", dir=job.scratch)


def _size(job: Job) -> int:
    """Return the number of characters in a job's log so far."""
    with suppress(OSError, ValueError):
        return len(read_text(job.log, _LOG_LIMIT))
    return 0


def work_on(job: Job) -> Outcome:
    """Work on a job in a process of its own, to the end.

    An exception that stops the waiting, such as a signal's, stops the process too, once its work is saved.
    """
    process = CellProcess(job)
    try:
        return process.wait()
    finally:
        process.end()
