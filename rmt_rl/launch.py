"""Facts about how this process was started."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NamedTuple

from rmt_rl.errors import UsageError

PLOT_SETTINGS = ("MPLBACKEND", "MATPLOTLIBRC")


_STARTER = "RMT_RL_STARTER"  # id of the process that starts the others of data parallel training
_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TASKS = {  # variables in which launchers tell each of their processes how many there are
    "srun": "SLURM_STEP_NUM_TASKS",
    "torchrun": "LOCAL_WORLD_SIZE",
    "mpirun": "OMPI_COMM_WORLD_SIZE",
    "mpiexec": "PMI_SIZE",
    "jsrun": "JSM_NAMESPACE_SIZE",
}
_RANK = "RMT_RL_RANK"  # of this process among those of several nodes


class _NodesLauncher(NamedTuple):
    """A launcher of processes on several nodes, and the variables that it gives each of them.

    Attributes:
        mark: a variable that only this launcher sets.
        rank: number of the process, from 0.
        size: number of processes on all nodes.
    """

    mark: str
    rank: str
    size: str


_OF_NODES = (
    _NodesLauncher("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"),  # torchrun
    _NodesLauncher("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun
)


def is_first_process() -> bool:
    """Return False in all processes of data parallel training but one.

    The ranks that a cluster gives its tasks don't count, unless the run's processes are on several nodes: a run knows
    nothing of other tasks.
    """
    if _RANK in os.environ:
        return os.environ[_RANK] == "0"
    return _STARTER not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0"


def prepare_data_parallel(devices: int, num_nodes: int) -> None:
    """Make this process one of data parallel training.

    On one node it becomes the first, unless another process has started it for that. Variables that tell of a cluster's
    processes are unset, as if there were no cluster. On several nodes a launcher has started all processes.

    Args:
        devices: processes on each node.
        num_nodes: nodes.

    Raises:
        UsageError: on one node, a launcher has started this process as one of several; on several nodes, none has, or
            the number of its processes is another.
    """
    if num_nodes > 1:
        _join_nodes(devices, num_nodes)
        return
    if not is_first_process() or os.environ.get(_STARTER) == str(os.getpid()):
        return
    for launcher, variable in _TASKS.items():
        tasks = os.environ.get(variable, "1")
        if tasks != "1":
            raise UsageError(
                f"devices={devices}: {launcher} has started {tasks} processes ({variable}={tasks}); start one, which "
                "starts the others itself, or set devices to 1 for a run in each, or num_nodes for one run on several "
                "nodes"
            )
    for variable in _RANKS:
        os.environ.pop(variable, None)
    os.environ[_STARTER] = str(os.getpid())


def _join_nodes(devices: int, num_nodes: int) -> None:
    """Take this process's rank from the launcher that has started it."""
    wanted = devices * num_nodes
    launcher = next((each for each in _OF_NODES if each.mark in os.environ), None)
    if launcher is None:
        raise UsageError(
            f"num_nodes={num_nodes}: no launcher has started this process; on each node run torchrun --nnodes "
            f"{num_nodes} --nproc-per-node {devices} ... -m rmt_rl train ..., or start the command by srun"
        )
    started = os.environ.get(launcher.size, "1")
    if started != str(wanted):
        raise UsageError(
            f"num_nodes={num_nodes}, devices={devices}: {wanted} processes are needed, but the launcher has started "
            f"{started} ({launcher.size}={started})"
        )
    os.environ[_RANK] = os.environ[launcher.rank]


def drop_unusable_plot_settings() -> None:
    """Unset the variables by which Matplotlib can't be imported here.

    A notebook, for example, hands its own backend to the commands that it runs, which may use another environment. Our
    pictures need no backend.
    """
    given = [name for name in PLOT_SETTINGS if name in os.environ]
    if not given or "matplotlib" in sys.modules:
        return
    try:
        import_module("matplotlib")
    except ValueError:
        for name in given:
            del os.environ[name]
        _forget("matplotlib")  # the parts that were imported, since the next import expects all or none


def _forget(package: str) -> None:
    """Remove a package's modules from those that are imported."""
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]
