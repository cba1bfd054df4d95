"""Gymnasium ids and entry points of environments that are classes, i.e. of `module:Name`.

Gymnasium makes an environment by calling an attribute of a module. The `make` of a task that is a class is an attribute
of an attribute, so Gymnasium asks this module for it: `rmt_rl.named_tasks:mylab.maze.Maze.make`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rmt_rl.plugins import find_object

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

_PATH = re.compile(r"([\w.]+)\.(\w+)\.(make|make_vec)")


def env_id(module: str, name: str) -> str:
    """Return the Gymnasium id of a class of environments: `mylab-maze/Maze-v0` for `mylab.maze:Maze`."""
    return f"{module.replace('.', '-')}/{name}-v0"


def entry_point(module: str, name: str, function: str) -> str:
    """Return by what Gymnasium finds a function of a task: of the class `name`, or of the module if there is none."""
    return f"{__name__}:{module}.{name}.{function}" if name else f"{module}:{function}"


def object_name(spec: EnvSpec) -> str | None:
    """Return the `module:Name` that a Gymnasium spec, possibly from a file, was made of; None if of something else."""
    module, _, name = str(spec.entry_point).partition(":")
    if module == __name__ and (path := _PATH.fullmatch(name)):
        return f"{path[1]}:{path[2]}"
    return f"{module}:{name}" if spec.id == env_id(module, name) else None


def __getattr__(name: str) -> Callable[..., Any]:
    """Return `make` or `make_vec` of a task that is a class, by the path `module.Name.make`."""
    path = _PATH.fullmatch(name)
    if path is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function: Callable[..., Any] = getattr(find_object(f"{path[1]}:{path[2]}", "rmt_rl.envs"), path[3])
    return function
