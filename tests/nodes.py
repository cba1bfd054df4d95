"""`rmt-rl` commands on two "nodes" of this machine: two torchrun launchers with one process each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # PyTorch documents it

from tests.tiny import start_process

PATIENCE = 420.0  # seconds for all nodes together; a quiet machine needs 10, one with 10 busy processes a core 120.
# Once in a while torchrun misses that the other node has ended, and waits 300 s for it before it ends well.
_CLOSING = 40.0  # seconds after which torchrun has killed its processes, which it gives 30


def on_two_nodes(arguments: Sequence[str], folder: Path) -> list[str]:
    """Run a command on two nodes; return the standard output of each.

    The launchers meet at a store that this function keeps open from the start. So no port is chosen that another
    process could take in between. The launchers choose the port of the run's own store in the same way.

    Raises:
        AssertionError: a node fails, or isn't done in time. Its output is shown, and its processes are ended.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{store.port}", "--rdzv-id", "test"]
    meeting += ["--rdzv-conf", "is_host=false", "--local-addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    command += ["-m", "rmt_rl", *arguments]
    deadline = monotonic() + PATIENCE
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node(command, folder, f"node-{number}")) for number in range(2)]
        for node in nodes:
            node.wait(deadline - monotonic())
        errors = [node.error for node in nodes]
        assert [node.process.returncode for node in nodes] == [0, 0], "\n".join(errors)
        return [node.output for node in nodes]


class Node:
    """A launcher, whose output goes into files, so that it never waits for a reader.

    Args:
        command: its command line.
        folder: where it runs.
        name: of its files there.
    """

    def __init__(self, command: Sequence[str], folder: Path, name: str) -> None:
        self._output, self._error = folder / f"{name}.out", folder / f"{name}.err"
        with self._output.open("w") as output, self._error.open("w") as error:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=error)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        """End the launcher, if it still runs, with the processes that it has started."""
        self.process.terminate()
        try:
            self.process.wait(_CLOSING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait(self, seconds: float) -> None:
        """Wait for the end, at most so long."""
        try:
            self.process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"a node isn't done after {PATIENCE:.0f} s:\n{self.error}") from None

    @property
    def output(self) -> str:
        """Its standard output so far."""
        return self._output.read_text()

    @property
    def error(self) -> str:
        """Its standard error so far."""
        return self._error.read_text()


def in_processes(count: int, function: Callable[..., object], *arguments: Any) -> list[int]:
    """Run a function in several processes, as torchrun would start them on nodes of their own; return the exit codes.

    Raises:
        AssertionError: a process isn't done in time. All are ended.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [start_process(_as_node, rank, count, store.port, function, *arguments) for rank in range(count)]
    deadline = monotonic() + PATIENCE
    try:
        for process in processes:
            process.join(max(deadline - monotonic(), 0.0))
        codes = [process.exitcode for process in processes]
        assert None not in codes, f"not done after {PATIENCE:.0f} s: exit codes {codes}"
        return codes
    finally:
        for process in processes:
            process.kill()


def _as_node(rank: int, count: int, port: int, function: Callable[..., object], *arguments: Any) -> None:
    """Run a function with the variables that torchrun sets."""
    here = {"RANK": rank, "GROUP_RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": 1}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    for name, value in {**here, **store, "TORCHELASTIC_RUN_ID": "test"}.items():
        os.environ[name] = str(value)
    function(*arguments)
