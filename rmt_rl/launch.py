"""Facts about how this process was started."""

from __future__ import annotations

import os
import sys
from importlib import import_module

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


def is_first_process() -> bool:
    """Return False in the additional processes of data parallel training, which the first starts by the same command.

    The ranks that a cluster gives its tasks don't count: a run knows nothing of other tasks.
    """
    return _STARTER not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0"


def prepare_data_parallel(devices: int) -> None:
    """Make this process the first of data parallel training, unless another process has started it for that.

    Variables that tell of a cluster's processes are unset, as if there were no cluster.

    Raises:
        UsageError: a launcher has started this process as one of several.
    """
    if not is_first_process() or os.environ.get(_STARTER) == str(os.getpid()):
        return
    for launcher, variable in _TASKS.items():
        tasks = os.environ.get(variable, "1")
        if tasks != "1":
            raise UsageError(
                f"devices={devices}: {launcher} has started {tasks} processes ({variable}={tasks}); start one, which "
                "starts the others itself, or set devices to 1 for a run in each"
            )
    for variable in _RANKS:
        os.environ.pop(variable, None)
    os.environ[_STARTER] = str(os.getpid())


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
