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

Maker = Callable[..., Any]
_PATH = re.compile(r"([\w.]+)\.(\w+)\.(make|make_vec)")


def env_id(module: str, name: str) -> str:
    """Return the Gymnasium id of a class of environments: `mylab-maze/Maze-v0` for `mylab.maze:Maze`."""
    namespace = module.replace(".", "-")
    return f"{namespace}/{name}-v0"


def entry_point(module: str, name: str, function: str) -> str:
    """Return by what Gymnasium finds a function of a task: of the class `name`, or of the module if there is none."""
    if not name:
        return f"{module}:{function}"
    return f"{__name__}:{module}.{name}.{function}"


def object_name(spec: EnvSpec) -> str | None:
    """Return the `module:Name` that a Gymnasium spec, possibly from a file, was made of; None if of something else."""
    module, _, name = str(spec.entry_point).partition(":")
    path = _PATH.fullmatch(name)
    if module == __name__ and path:
        return _object_of(path)
    is_class = spec.id == env_id(module, name)
    return f"{module}:{name}" if is_class else None


def _object_of(path: re.Match[str]) -> str:
    module, name, _ = path.groups()
    return f"{module}:{name}"


def __getattr__(name: str) -> Maker:
    """Return `make` or `make_vec` of a task that is a class, by the path `module.Name.make`."""
    path = _PATH.fullmatch(name)
    if path is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    task = find_object(_object_of(path), "rmt_rl.envs")
    function: Maker = getattr(task, path[3])
    return function
