"""Facts about how this process was started."""

from __future__ import annotations

import os
import sys
from importlib import import_module

PLOT_SETTINGS = ("MPLBACKEND", "MATPLOTLIBRC")


def is_first_process() -> bool:
    """Return False in the additional processes of data parallel training, which Fabric starts by the same command."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


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
