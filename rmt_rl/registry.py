"""Find environments, agents, memory mechanisms, encoders, feeds, data formats, loggers, engines and commands by name.

A name is one of three things:

- the stem of a file in the kind's home, e.g. `tmaze` for `rmt_rl/envs/tmaze.py`;
- an entry point of an installed distribution in the group `rmt_rl.KIND`, e.g. `maze = "mylab.maze"` for a module like
  the files in the home, or `maze = "mylab.maze:Maze"` for the object itself;
- `module:Name`, the object `Name` of a module that the user named or imported (see `rmt_rl.plugins`).

Files are read and not run until one is asked for by name. An optional dependency or a slow import thus costs only
those who name the file that needs it. A file in the home hides an entry point of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from operator import attrgetter
from pkgutil import iter_modules
from sys import version_info
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import gymnasium

from rmt_rl.errors import UsageError, nearest
from rmt_rl.foreign_specs import trust_specs as trust_specs
from rmt_rl.kinds import KINDS as KINDS
from rmt_rl.kinds import Kind as Kind
from rmt_rl.lives import LIFETIME, SINGLE, divided_spec
from rmt_rl.named_tasks import entry_point, env_id, object_name
from rmt_rl.plugins import declared, find_object, import_installed, is_object_name
from rmt_rl.plugins import import_named as import_named
from rmt_rl.sources import Outline, outline

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from rmt_rl.agent import BaseAgent
    from rmt_rl.data.feed import FeedClass
    from rmt_rl.data.layout import Layout
    from rmt_rl.runs.metrics import Logger
    from rmt_rl.sweeps.engine import EngineClass
    from rmt_rl.task import Task
    from rmt_rl.training.learner import AgentLearner

Command = Callable[[Sequence[str]], int]
"""Takes a command's arguments and returns the exit status."""
_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d", re.IGNORECASE)  # names that Windows keeps for devices
_LONGEST_SLUG = 120  # bytes, of the 255 that most systems allow
_GYMNASIUM_ID = re.compile(r":|-v\d+$")


class NotInstalled(UsageError):
    """A file needs a package that isn't installed."""


class Entry(NamedTuple):
    """The place of something that has a name.

    Attributes:
        module: the module to import.
        attribute: the object in the module, `""` for what the files of this kind give.
        distribution: the name of the distribution that declares it, `""` for a file in the kind's home.
    """

    module: str
    attribute: str = ""
    distribution: str = ""


Entries = tuple[Entry, ...]


def entries(kind: Kind) -> dict[str, Entries]:
    """Return where everything of a kind is found, by name; a name is ambiguous if it has several entries."""
    found: dict[str, Entries] = {}
    for each in declared(f"rmt_rl.{kind}"):
        entry = Entry(each.module, each.attribute, each.distribution)
        others = found.get(each.name, ())
        found[each.name] = (*others, entry)
    home = KINDS[kind].home
    for stem in _stems(home):
        entry = Entry(f"{home}.{stem}")
        found[stem] = (entry,)
    by_name = sorted(found.items())
    return dict(by_name)


def names(kind: Kind) -> list[str]:
    """Return the names of everything of a kind, sorted."""
    return list(entries(kind))


def summary(kind: Kind, name: str) -> str:
    """Return the first line of the docstring, without importing anything; `""` if there is no source to read.

    Raises:
        UsageError: nothing has this name, or several distributions declare the name.
    """
    entry = _entry(kind, name)
    return _outline(entry).summary


def constant(kind: Kind, name: str, key: str) -> str | None:
    """Return the literal string `key = "..."` of a file or class, without importing it; None if it has none.

    Raises:
        UsageError: nothing has this name, or several distributions declare the name.
    """
    entry = _entry(kind, name)
    return _outline(entry).string(key)


def load(kind: Kind, name: str) -> object:
    """Import what has this name and return it.

    Args:
        kind: the kind of the object.
        name: a file's stem, an entry point's name, or `module:Name` for an object of a module that is imported.

    Raises:
        UsageError: nothing has this name, several distributions declare the name, the object isn't of this kind, its
            module isn't imported, or a package that it needs is not installed.
    """
    info = KINDS[kind]
    is_known = name in entries(kind)
    if not is_known and is_object_name(name):
        thing = find_object(name, f"rmt_rl.{kind}", info.strict)
    else:
        thing = _imported(kind, name)
    if not info.fits(thing):
        raise UsageError(f"{info.noun} {name!r} is {thing!r}, but must be {info.wanted}")
    return thing


def load_task(name: str) -> Task:
    """Import an environment; or make a task of a class of environments or of a Gymnasium id, such as `Hopper-v5`.

    Raises:
        UsageError: no environment has this name, its module isn't imported, or a package that it needs isn't
            installed.
    """
    from rmt_rl.gymnasium_task import GymnasiumTask, as_task

    known = entries("envs").get(name)
    if known is None and not is_object_name(name) and _GYMNASIUM_ID.search(name):
        task = GymnasiumTask(name)
        return cast("Task", task)
    thing = load("envs", name)
    where = known[0] if known else Entry(*name.split(":"))
    return as_task(thing, where.module, where.attribute)


def agent_class(name: str) -> type[BaseAgent]:
    """Import an agent's class.

    Raises:
        UsageError: no agent has this name, its module isn't imported, or a package that it needs is not installed.
    """
    return cast("type[BaseAgent]", load("agents", name))


def feed_class(name: str) -> FeedClass:
    """Import a feed's class.

    Raises:
        UsageError: no feed has this name, its module isn't imported, or a package that it needs is not installed.
    """
    return cast("FeedClass", load("feeds", name))


def data_format(name: str) -> Layout:
    """Import the layout of files of others.

    Raises:
        UsageError: no data format has this name, its module isn't imported, or a package that it needs is not
            installed.
    """
    return cast("Layout", load("formats", name))


def logger_class(name: str) -> type[Logger]:
    """Import a logger's class.

    Raises:
        UsageError: no logger has this name, its module isn't imported, or a package that it needs is not installed.
    """
    return cast("type[Logger]", load("loggers", name))


def engine_class(name: str) -> EngineClass:
    """Import the class of an engine, which executes the runs of a sweep.

    Raises:
        UsageError: no engine has this name, its module isn't imported, or a package that it needs is not installed.
    """
    return cast("EngineClass", load("engines", name))


def learner_named(name: str) -> type[AgentLearner]:
    """Return the class of the learner with this name.

    Raises:
        UsageError: see `load`.
    """
    return cast("type[AgentLearner]", load("learners", name))


def command(name: str) -> Command:
    """Import a command of `rmt-rl`.

    Raises:
        UsageError: no command has this name, or a package that it needs is not installed.
    """
    return cast("Command", load("commands", name))


def task_of_spec(spec: EnvSpec) -> tuple[str, dict[str, Any]]:
    """Return the name and options of the task that makes what a Gymnasium spec, e.g. of a data set, describes.

    Raises:
        UsageError: the environment isn't registered, and not by a package that is known to do so.
    """
    spec, lifetime = divided_spec(spec)
    name = _env_ids().get(spec.id) or object_name(spec)
    is_limited = spec.max_episode_steps is not None
    if name is None or spec.additional_wrappers or is_limited:
        from rmt_rl.gymnasium_task import gymnasium_task_of

        name, options = gymnasium_task_of(spec)
        return name, options | lifetime
    options = dict(spec.kwargs)
    options.pop("render_mode", None)
    return name, _single_episodes(name) | options | lifetime


def _single_episodes(name: str) -> dict[str, Any]:
    """Return the options that make single episodes in an environment that isn't a Gymnasium id; its source is read."""
    entry = _entry("envs", name) if name in entries("envs") else Entry(*name.split(":"))
    plays_lives = "LIFETIME" in _outline(entry).defined
    return {LIFETIME: SINGLE} if plays_lives else {}


def slug(name: str, kept: str = "") -> str:
    """Return a name as (part of) a data set's id, or of a file's name that every system allows.

    A long name is shortened, and ends in a hash of the whole. Of other characters than letters, digits, `_` and `-`
    those in `kept` stay.
    """
    text = re.sub(rf"[^-\w{re.escape(kept)}]", "-", name)
    if _RESERVED.fullmatch(text):
        return f"{text}_"
    encoded = text.encode()
    if len(encoded) <= _LONGEST_SLUG:
        return text
    digest = sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    beginning = encoded[: _LONGEST_SLUG - 9].decode(errors="ignore")
    return f"{beginning}-{digest}"


def register_envs() -> None:
    """Register every environment with Gymnasium under its `ID`; once is enough, again is harmless."""
    for identity, name in _env_ids().items():
        if identity in gymnasium.registry:
            continue
        entry = _entry("envs", name)
        with suppress(gymnasium.error.Error):  # a malformed id hurts only those who name its file
            _register(identity, entry)


def _env_ids() -> dict[str, str]:
    """Return the names of all environments by Gymnasium id; of two with one id, ours stays."""
    ids: dict[str, str] = {}
    for name, (entry, *others) in entries("envs").items():
        identity = _env_id(entry)
        if identity is None or others:
            continue
        is_ours = not entry.distribution
        if is_ours or identity not in ids:
            ids[identity] = name
    return ids


def _env_id(entry: Entry) -> str | None:
    """Return the Gymnasium id of an environment; None for a module without one."""
    declared_id = _outline(entry).string("ID")
    if declared_id:
        return declared_id
    return env_id(entry.module, entry.attribute) if entry.attribute else None


def _register(identity: str, entry: Entry) -> None:
    module, attribute, _ = entry
    defined = _outline(entry).defined
    if attribute and "make" not in defined:  # a class of environments
        gymnasium.register(identity, entry_point=f"{module}:{attribute}")
        return
    make = entry_point(module, attribute, "make")
    make_vec = entry_point(module, attribute, "make_vec")
    vector = make_vec if "make_vec" in defined else None
    gymnasium.register(identity, entry_point=make, vector_entry_point=vector)


def _stems(home: str) -> list[str]:
    """Return the stems of a package's files that have no leading underscore; none if there is no such package."""
    try:
        package = import_installed(home)
    except ModuleNotFoundError as error:
        if not f"{home}.".startswith(f"{error.name}."):
            raise
        return []
    stems = [module.name for module in iter_modules(package.__path__)]
    return [stem for stem in stems if not stem.startswith("_")]


def _entry(kind: Kind, name: str) -> Entry:
    """Return where a known name is found.

    Raises:
        UsageError: nothing has this name, or several distributions declare the name.
    """
    known = entries(kind)
    noun = KINDS[kind].noun
    if name not in known:
        shown = ", ".join(known)
        own = "; your own are named module:Name" if "." in name else ""
        raise UsageError(f"unknown {noun} {name!r} (known: {shown}){nearest(name, known)}{own}")
    named = known[name]
    if len(named) > 1:
        distributions = ", ".join(each.distribution for each in named)
        objects = " or ".join(_written(each) for each in named)
        raise UsageError(
            f"{noun} {name!r} is declared by several distributions ({distributions}): name the object itself "
            f"({objects}), or uninstall all but one"
        )
    return named[0]


def _written(entry: Entry) -> str:
    if not entry.attribute:
        return entry.module
    return f"{entry.module}:{entry.attribute}"


def _top(module: str) -> str:
    """Return the name of the top-level package of a module."""
    return module.partition(".")[0]


def _missing(entry: Entry, package: str) -> str:
    """Return which package is missing, and how to get it, or that there is none for this version of Python."""
    described = _outline(entry)
    extra = described.string("EXTRA")
    before = described.string("BEFORE_PYTHON")
    if before and version_info >= tuple(map(int, before.split("."))):
        this = f"{version_info.major}.{version_info.minor}"
        return f"{extra or package!r}, which has no release for Python {this}; use one before {before}"
    distribution = entry.distribution or "rmt-rl"
    requirement = f"'{distribution}[{extra}]'" if extra else package
    return f"{package!r}, which is not installed: pip install {requirement}"


def _outline(entry: Entry) -> Outline:
    return outline(entry.module, entry.attribute)


def _imported(kind: Kind, name: str) -> object:
    """Import what has a known name.

    Raises:
        UsageError: nothing has this name, a package that it needs is not installed, or its module lacks the object.
    """
    entry = _entry(kind, name)
    info = KINDS[kind]
    try:
        module = import_installed(entry.module)
    except ModuleNotFoundError as error:
        missing = _top(error.name or "")
        if missing in ("", "rmt_rl", _top(entry.module)):
            raise
        raise NotInstalled(f"{info.noun} {name!r} needs {_missing(entry, missing)}") from error
    attribute = entry.attribute or info.attribute
    try:
        return attrgetter(attribute)(module) if attribute else module
    except AttributeError:
        raise UsageError(
            f"{info.noun} {name!r}: {entry.module} has no {attribute!r}; it must be {info.wanted}"
        ) from None
