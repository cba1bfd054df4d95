"""`python -m rmt_rl.cli.cell`: work on one cell of a sweep, by the `rmt-rl` commands that a user would type.

The job is one line of JSON on standard input. When standard input is closed, the sweep is gone or wants the cell to
stop: the work is saved then, as on SIGTERM.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from rmt_rl import signals
from rmt_rl.cli.entry import main
from rmt_rl.errors import UsageError
from rmt_rl.locks import held
from rmt_rl.plugins import import_modules
from rmt_rl.registry import trust_specs
from rmt_rl.runs.cpu_time import counted
from rmt_rl.runs.folder import LOCK
from rmt_rl.sweeps.engine import Job
from rmt_rl.sweeps.state import due_commands
from rmt_rl.sweeps.stored import stored
from rmt_rl.terminal import complain, one_line, say

_INPUT = 0  # the descriptor; Python's own object locks, also while the process ends


def work() -> int:
    """Read a job, and run the commands that are due; return the exit status."""
    job = Job.model_validate_json(_first_line())
    if hasattr(signal, "SIGUSR2"):  # Slurm sends it to all processes; the one that started this one acts on it
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    watch = threading.Thread(target=_stop_with_the_sweep, daemon=True)
    try:
        with signals.heard(), tempfile.TemporaryDirectory() as scratch:
            watch.start()
            return run_due(job, Path(scratch))
    except signals.Stopped as stopped:
        return stopped.status
    except UsageError as error:
        complain(f"error: {one_line(str(error))}")
        return 2


def run_due(job: Job, scratch: Path) -> int:
    """Run the commands that are due; return the exit status. `scratch` is a folder for files of its own."""
    import_modules(job.modules)
    trust_specs(job.trust_spec)
    if job.run.exists():
        with held(job.run / LOCK, wait=True):  # a process of an earlier sweep may be saving its work
            pass
    with stored(job):
        return _run_due_commands(job, scratch)


def _run_due_commands(job: Job, scratch: Path) -> int:
    """Run what is left to do for a job; return the first exit status that isn't 0."""
    for arguments in due_commands(job, scratch):
        say(f"$ rmt-rl {shlex.join(arguments)}", flush=True)
        command, *_ = arguments
        with counted(job.run, command):
            status = main(arguments)
        if status:
            return status
    return 0


def _first_line() -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(_INPUT, 1)
        if not piece:
            break
        line += piece
    return bytes(line)


def _stop_with_the_sweep() -> None:
    while os.read(_INPUT, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(work())
