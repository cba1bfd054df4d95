"""`rmt-rl` commands in processes of their own, forked from one that has imported the library: they start at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rmt_rl.cli import main
from tests.tiny import start_process

PATIENCE = 120.0  # seconds
_started: list[Command] = []


class Command:
    """An `rmt-rl` command that runs in the current folder.

    Args:
        arguments: of `rmt-rl`.
        error: where its standard error goes; None: into a file, which `error` returns.
        output: the same for standard output.
        ignored: signals that are ignored when it starts.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        error: str | None = None,
        output: str | None = None,
        ignored: Sequence[int] = (),
    ) -> None:
        number = len(list(Path().glob("command-*.err")))
        self._error = Path(error or f"command-{number}.err").absolute()
        self._output = Path(output or f"command-{number}.out").absolute()
        self._error.touch()
        places = str(Path().absolute()), str(self._output), str(self._error)
        self.process = start_process(_run, list(arguments), *places, list(ignored))
        _started.append(self)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition while the command runs."""
        began = time.monotonic()
        while not condition():
            assert self.process.is_alive(), self.error
            assert time.monotonic() < began + PATIENCE, self.error
            time.sleep(0.005)

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def pause(self) -> None:
        """Stop the command and wait until all its threads stand still."""
        self.send(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        self.until(lambda: all(_is_stopped(task) for task in tasks.iterdir()))

    def kill(self) -> None:
        """Kill the command, and wait for its end."""
        self.process.kill()
        self.process.join()

    def status(self) -> int:
        """Wait for the end and return the exit status, negative for a signal that killed the process."""
        self.process.join(PATIENCE)
        assert not self.process.is_alive(), self.error
        return int(self.process.exitcode)

    @property
    def error(self) -> str:
        """Return what is on standard error so far; nothing of a pipe, whose reader would wait."""
        return self._error.read_text() if self._error.is_file() else ""

    @property
    def output(self) -> str:
        """Return what is on standard output so far."""
        return self._output.read_text()


def _is_stopped(task: Path) -> bool:
    """Return True if Linux says of a thread that it is stopped."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _run(arguments: list[str], folder: str, output: str, error: str, ignored: list[int]) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run under nohup
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    for descriptor, path in ((1, output), (2, error)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    # The parent's streams may know their files as seekable, which pipes aren't.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.exit(main(arguments))


def kill_all() -> None:
    """Kill the commands that still run, and wait for their ends."""
    while _started:
        process = _started.pop().process
        process.kill()
        process.join()
