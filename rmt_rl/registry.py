"""Finds environments, agents, memory mechanisms and loggers by name: a file's stem is its name.

Adding one is adding a file. Files are read, not run, until one is asked for by name, so what one of them needs
(an optional dependency, a slow import) costs only whoever names it.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, cast

import gymnasium

from rmt_rl.errors import UsageError, nearest

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from gymnasium.envs.registration import EnvSpec

    from rmt_rl.task import Task

Kind = Literal["envs", "agents", "memory", "loggers"]
_NOUNS: dict[Kind, str] = {
    "envs": "env",
    "agents": "agent",
    "memory": "memory mechanism",
    "loggers": "logger",
}
_PACKAGES: dict[Kind, str] = {
    "envs": "rmt_rl.envs",
    "agents": "rmt_rl.agents",
    "memory": "rmt_rl.memory",
    "loggers": "rmt_rl.runs.loggers",
}


def names(kind: Kind) -> list[str]:
    """Return the names of everything of a kind, sorted: file stems without a leading underscore."""
    package = import_module(_PACKAGES[kind])
    return sorted(module.name for module in iter_modules(package.__path__) if not module.name.startswith("_"))


def summary(kind: Kind, name: str) -> str:
    """Return the first line of a file's docstring, without importing it.

    Raises:
        UsageError: no file has this name.
    """
    docstring = ast.get_docstring(_source(kind, name)) or ""
    return docstring.partition("\n")[0]


def constant(kind: Kind, name: str, key: str) -> str | None:
    """Return a file's top-level literal string `key = "..."`, without importing it; None when it has none.

    Raises:
        UsageError: no file has this name.
    """
    value = _top_level(kind, name).get(key)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def load_task(name: str) -> Task:
    """Import an environment's file; or make a task of a Gymnasium id, such as `Hopper-v5` or `ale_py:ALE/Pong-v5`.

    Raises:
        UsageError: no environment has this name, or a package that it needs is not installed.
    """
    if name not in names("envs") and re.search(r":|-v\d+$", name):
        from rmt_rl.gymnasium_task import GymnasiumTask

        return cast("Task", GymnasiumTask(name))
    return cast("Task", _load("envs", name))


def task_of(spec: EnvSpec) -> tuple[str, dict[str, Any]]:
    """The name and the options of the task that makes what a Gymnasium spec, e.g. of a data set, describes."""
    ours = {constant("envs", name, "ID"): name for name in names("envs")}
    if spec.id in ours and not spec.additional_wrappers and spec.max_episode_steps is None:
        return ours[spec.id], {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    from rmt_rl.gymnasium_task import task_of

    return task_of(spec)


def slug(name: str) -> str:
    """A task's name as part of a file name or a data set's id."""
    return re.sub(r"[^-\w]", "-", name)


def load_agent(name: str) -> Any:
    """Import an agent's file and return its class (a `rmt_rl.agent.BaseAgent`), which it names `AGENT`.

    Raises:
        UsageError: no agent has this name, or a package that it needs is not installed.
    """
    return _load("agents", name).AGENT


def feed_class(name: str) -> Any:
    """Import a feed's file and return its class, which it names `FEED`."""
    known = [each.name for each in iter_modules(import_module("rmt_rl.data.feeds").__path__)]
    if name not in known:
        raise UsageError(f"unknown feed {name!r} (known: {', '.join(known)}){nearest(name, known)}")
    return import_module(f"rmt_rl.data.feeds.{name}").FEED


def load(kind: Literal["loggers"], name: str) -> Any:
    """Import a logger's file and return its class (a `rmt_rl.runs.metrics.Logger`), which it names `LOGGER`.

    Raises:
        UsageError: no logger has this name, or a package that it needs is not installed.
    """
    return _load(kind, name).LOGGER


def register_envs() -> None:
    """Register every environment with Gymnasium under its `ID`; once is enough, again is harmless."""
    for name in names("envs"):
        env_id = constant("envs", name, "ID")
        if env_id is None or env_id in gymnasium.registry:
            continue
        vector_entry_point = f"rmt_rl.envs.{name}:make_vec" if "make_vec" in _top_level("envs", name) else None
        gymnasium.register(env_id, entry_point=f"rmt_rl.envs.{name}:make", vector_entry_point=vector_entry_point)


def _load(kind: Kind, name: str) -> ModuleType:
    _check(kind, name)
    try:
        return import_module(f"{_PACKAGES[kind]}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "rmt_rl"):
            raise
        extra = constant(kind, name, "EXTRA")
        requirement = f"'rmt-rl[{extra}]'" if extra else missing
        raise UsageError(
            f"{_NOUNS[kind]} {name!r} needs {missing!r}, which is not installed: pip install {requirement}"
        ) from error


def _check(kind: Kind, name: str) -> None:
    known = names(kind)
    if name not in known:
        raise UsageError(f"unknown {_NOUNS[kind]} {name!r} (known: {', '.join(known)}){nearest(name, known)}")


def _source(kind: Kind, name: str) -> ast.Module:
    _check(kind, name)
    spec = find_spec(f"{_PACKAGES[kind]}.{name}")
    source = Path(cast("str", cast("ModuleSpec", spec).origin))  # there is a file, since its name is known
    try:
        return ast.parse(source.read_bytes())
    except SyntaxError:  # hurts only whoever asks for this file by name: importing it then reports the error
        return ast.Module(body=[], type_ignores=[])


def _top_level(kind: Kind, name: str) -> dict[str, ast.expr | None]:
    """Return what a file defines at its top level: each name with the expression assigned to it, if any."""
    defined: dict[str, ast.expr | None] = {}
    for statement in _source(kind, name).body:
        match statement:
            case ast.FunctionDef(name=target) | ast.ClassDef(name=target):
                defined[target] = None
            case ast.Assign(targets=targets, value=value):
                defined |= {target.id: value for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=target), value=value):
                defined[target] = value
    return defined
