"""Modules outside this package: those that installed distributions declare, and those that the user names.

A name that a file holds (a run's config, a checkpoint's header, a data set) never imports a module, since files may
come from anyone. A module is imported if an installed distribution declares it as an entry point, or if the user named
it: on the command line, by `import_named`, or by importing it before.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rmt_rl.errors import UsageError

_MODULE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
NAME = re.compile(rf"({_MODULE}):([\w./-]+)")
_OBJECT = re.compile(rf"({_MODULE}):([A-Za-z_]\w*)")
_LIBRARY = sysconfig.get_path("stdlib")
_named: set[str] = set()  # modules that the user named to `import_user_module` in this process


class Declared(NamedTuple):
    """An entry point, `name = module` or `name = module:attribute`.

    Attributes:
        name: the name that the distribution gives it.
        module: the module to import.
        attribute: the object in the module, `""` for the module itself.
        distribution: the name of the distribution.
    """

    name: str
    module: str
    attribute: str
    distribution: str


def declared(group: str) -> list[Declared]:
    """Return the entry points of a group that installed distributions declare. Imports none of them."""
    found = []
    for point in _entry_points(group, _installed_path()):
        module, _, attribute = point.value.partition("[")[0].partition(":")
        distribution = str(point.dist.name) if point.dist is not None else "an unknown distribution"
        found.append(Declared(point.name, module.strip(), attribute.strip(), distribution))
    return found


def _installed_path() -> tuple[str, ...]:
    """Return Python's path without the current folder: a folder's files declare nothing by being there."""
    return tuple(folder for folder in sys.path if not _is_here(folder))


def _is_here(folder: str) -> bool:
    """Return True if an entry of Python's path is the current folder, however it is written."""
    try:
        return Path(folder).resolve() == Path.cwd()
    except OSError:  # the current folder was removed, or an entry is no path
        return not folder


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Import nothing from the current folder in this block because Python put the folder on its path by itself.

    `python -m` and empty entries of PYTHONPATH put the current folder before all installed packages. There, any file of
    a data set that was unpacked there could take a package's place. The folder stays on the path if the user wrote it
    into PYTHONPATH, if an installed package lies in it, or if this package does.
    """
    before = list(sys.path)
    stated = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    is_ours = _is_here(str(Path(__file__).parents[1]))
    kept = []
    is_behind_library = False
    for folder in before:
        is_behind_library = is_behind_library or folder == _LIBRARY
        is_wanted = folder and (is_ours or is_behind_library or folder in stated)
        if is_wanted or not _is_here(folder):
            kept.append(folder)
    sys.path[:] = kept
    try:
        yield
    finally:
        added = [folder for folder in sys.path if folder not in kept]
        sys.path[:] = before + added


def import_installed(module: str) -> ModuleType:
    """Import a module of an installed package, never one of the same name in the current folder."""
    if module in sys.modules:
        return import_module(module)
    with without_current_folder():
        return import_module(module)


def import_extra(module: str, extra: str, user: str) -> ModuleType:
    """Import a module that an extra of rmt-rl installs.

    Args:
        module: the module.
        extra: the extra.
        user: what needs it, for the error.

    Raises:
        UsageError: the module isn't installed.
    """
    try:
        return import_installed(module)
    except ModuleNotFoundError as error:
        package, _, _ = module.partition(".")
        missing, _, _ = (error.name or "").partition(".")
        if missing != package:
            raise
        raise UsageError(f"{user} needs {package!r}, which is not installed: pip install 'rmt-rl[{extra}]'") from error


class _Folder(MetaPathFinder):
    """Finds modules in a folder while it is the current one.

    Unlike an entry of `sys.path`, the folder declares no entry points, which PyTorch and others would load.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_elsewhere = path is not None or not _is_here(self.folder)
        return None if is_elsewhere else PathFinder.find_spec(fullname, [self.folder])


def find_in_current_folder(module: str) -> None:
    """Let Python find a module that the user named in the current folder, and the modules that it imports there.

    Other folders are looked through first, so that none of their modules is hidden.
    """
    top, _, _ = module.partition(".")
    if top in sys.modules or find_spec(top) is not None:
        return
    finders = [finder for finder in sys.meta_path if not isinstance(finder, _Folder)]
    sys.meta_path[:] = [*finders, _Folder(str(Path.cwd()))]


def is_object_name(name: str) -> bool:
    """Return whether a name has the form `module:Name`, unlike a Gymnasium id such as `ale_py:ALE/Pong-v5`."""
    return _OBJECT.fullmatch(name) is not None


def import_named(name: str) -> None:
    """Import the module of `module:Name` or `module:Id-v0`, since the user gave this name; other names do nothing.

    Raises:
        UsageError: the module can't be imported.
    """
    if match := NAME.fullmatch(name):
        import_user_module(match[1])


def import_user_module(module: str) -> None:
    """Import a module that the user named. Files may name its objects from now on.

    Raises:
        UsageError: the module can't be imported.
    """
    try:
        import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or module
        is_found = not f"{module}.".startswith(f"{missing}.")
        remedy = f"install {missing!r}" if is_found else "name an installed module or one in the current folder"
        raise UsageError(f"module {module!r} can't be imported ({error}); {remedy}") from error
    _named.add(module)


def import_modules(modules: Iterable[str]) -> None:
    """Import modules that the user typed, from the current folder too; `module:Name` stands for its module.

    Raises:
        UsageError: a module can't be imported.
    """
    for name in modules:
        module, _, _ = name.partition(":")
        find_in_current_folder(module)
        import_user_module(module)


def find_object(name: str, group: str, strict: bool = False) -> object:
    """Return the object `Name` of the module in `module:Name`.

    Args:
        name: the object's name, possibly from a file.
        group: the entry points that declare modules which may be imported.
        strict: require that the user named the module to `import_user_module` or that the group declares the module.
            It is not enough then that something imported it. Use this for kinds of which any class or function is
            accepted: the name of one that is dangerous to call, such as `shutil:rmtree`, may stand in a file.

    Raises:
        UsageError: the module isn't imported, or it has no such object.
    """
    module, _, attribute = name.partition(":")
    if strict and not is_named(module, group):
        raise _not_named(module, "call rmt_rl.registry.import_named")
    ensure_imported(module, trusted(group))
    try:
        return vars(sys.modules[module])[attribute]  # without the module's own __getattr__, which may import more
    except KeyError:
        raise UsageError(f"module {module!r} has no {attribute!r}; correct the name {name!r}") from None


def ensure_imported(module: str, allowed: Iterable[str]) -> None:
    """Import a module that a file may have named, if it is an allowed one.

    Raises:
        UsageError: the module is neither imported already nor allowed.
        ImportError: the module is allowed, but it or what it needs isn't installed.
    """
    if sys.modules.get(module) is not None:
        return
    if module not in allowed:
        raise _not_named(module, "import the module")
    import_installed(module)


def is_named(module: str, group: str) -> bool:
    """Return True if the user named a module, or if an installed distribution declares the module in a group."""
    return module in _named or module in trusted(group)


def trusted(group: str) -> set[str]:
    """Return the modules that entry points of a group name, and the packages at the top of these modules."""
    modules = {each.module for each in declared(group)}
    return modules | {module.partition(".")[0] for module in modules}


def _not_named(module: str, in_python: str) -> UsageError:
    return UsageError(
        f"module {module!r} isn't imported, and a name in a file imports none, as files may come from anyone. If the "
        f"module is yours, or if you have read its code, name it yourself behind --import (in Python, {in_python} "
        "before)"
    )


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read the entry points of a group, of the first distribution of each name on a path."""
    found: dict[str, list[EntryPoint]] = {}
    for distribution in distributions(path=list(path)):
        points = distribution.entry_points.select(group=group)
        found.setdefault(distribution.name, list(points))
    return tuple(point for points in found.values() for point in points)
