"""The code and the packages that an environment is made of, found by its imports.

Modules are read, never run. Every form of import counts: absolute, relative, `from package import module`, inside
functions, and `import_module` with a literal string. Names that are computed while the program runs aren't seen.

Code that is hashed:
- the environment's module, and the modules of the same package that it imports, directly or indirectly. Of this library
  the package is `rmt_rl.envs`, so an edit of `rmt_rl.config`, say, leaves all ids alone. Of Gymnasium it is
  `gymnasium.envs`, of others their top-level package.
- imported modules that neither an installed distribution nor the standard library holds, such as the other files of a
  script's folder.
Comments, docstrings and blank lines are left out, see `rmt_rl.acting.code_text`.

Packages whose versions count:
- every other distribution that is imported. NumPy is one of them: what its generators draw may change between versions.
- the distributions that the environment's extra of rmt-rl asks for, which may be simulators below the imported one
  (MuJoCo below Memory Maze).
rmt-rl itself doesn't count, since its version grows with changes elsewhere, nor do pydantic, which checks options, and
typing-extensions. A package that only draws for people does count: an id that changes without need costs another
collection, but an id that stays the same by mistake names wrong data.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.util import decode_source, resolve_name
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rmt_rl.acting.code_text import without_prose
from rmt_rl.gymnasium_task import GymnasiumTask
from rmt_rl.sources import outline, source_path
from rmt_rl.task import Task

OURS = "rmt_rl.envs"
PARTS = (OURS, "gymnasium.envs")  # the part that is hashed of packages that hold more than environments
UNCOUNTED = frozenset({"rmt-rl", "pydantic", "typing-extensions"})


class Origin(NamedTuple):
    """The code and the packages that an environment is made of."""

    source_sha256: str
    packages: dict[str, str]  # name of each distribution: its version


def origin_of(task: Task) -> Origin:
    """Return the origin of a task's environment."""
    root = _module_of(task)
    modules, imported = _follow(root)
    digest = hashlib.sha256()
    for name, module in sorted(modules.items()):
        text = f"{name}\n{module.code}\n"
        digest.update(text.encode())
    extra = outline(root).string("EXTRA")
    distributions = _distributions(imported) | _required(extra)
    return Origin(digest.hexdigest(), _versions(distributions))


def _module_of(task: Task) -> str:
    """Return the name of the module that defines the environment."""
    if isinstance(task, GymnasiumTask):
        entry_point = task.registered.entry_point
        if isinstance(entry_point, str):
            module, _, _ = entry_point.partition(":")
            return module
        return entry_point.__module__
    return task.__name__ if isinstance(task, ModuleType) else task.__module__


class _Module(NamedTuple):
    code: str
    imports: frozenset[str]  # absolute names: of modules, and of names in modules, which look alike


def _follow(root: str) -> tuple[dict[str, _Module], set[str]]:
    """Return the modules to hash by name, and the top-level names of everything imported besides."""
    hashed = (_own_part(root), OURS)
    modules: dict[str, _Module] = {}
    others = {_top(root), "gymnasium"}
    seen: set[str] = set()
    due = {root}
    while due:
        name = due.pop()
        seen.add(name)
        is_hashed = any(_within(name, part) for part in hashed) or _is_local(name)
        if not is_hashed:
            others.add(_top(name))
            continue
        path = source_path(name)
        if path is None:  # a name in a module, or a compiled module, which its package's version stands for
            continue
        module = _read(name, path)
        modules[name] = module
        found = module.imports | _parents(name)
        due |= found - seen
    return modules, others


def _own_part(module: str) -> str:
    for part in PARTS:
        if _within(module, part):
            return part
    return _top(module)


def _within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _top(name: str) -> str:
    return name.partition(".")[0]


def _parents(name: str) -> set[str]:
    """Return the packages that hold a module, whose `__init__.py` runs before it."""
    parent = _parent(name)
    if not parent:
        return set()
    return {parent} | _parents(parent)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_local(name: str) -> bool:
    """Return True if neither an installed distribution nor the standard library holds the module."""
    top = _top(name)
    return top not in sys.stdlib_module_names and top not in _installed()


def _read(name: str, path: Path) -> _Module:
    source = decode_source(path.read_bytes())
    package = name if path.stem == "__init__" else _parent(name)
    return _parsed(source, package)


@lru_cache(maxsize=256)
def _parsed(source: str, package: str) -> _Module:
    """Return the code and the imports of a module's source. A command asks for the same modules several times."""
    tree = ast.parse(source)
    code = without_prose(source, tree)
    imports = _absolute(_imports(tree), package)
    return _Module(code, frozenset(imports))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module imports, as it spells them.

    `from a import b` gives `a` and `a.b`, since b may be a module; `from . import b` gives `.` and `.b`.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                yield base
                separator = "." if module else ""
                yield from (f"{base}{separator}{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def _absolute(names: Iterable[str], package: str) -> Iterator[str]:
    for name in names:
        with suppress(ImportError):  # relative without a package, as in a file that is also run as a script
            yield resolve_name(name, package)


@cache
def _installed() -> dict[str, list[str]]:
    """Return the distributions that hold each top-level module."""
    return dict(packages_distributions())


def _distributions(modules: Iterable[str]) -> set[str]:
    installed = _installed()
    distributions: set[str] = set()
    for module in modules:
        names = installed.get(module, ())
        distributions.update(map(_normalised, names))
    return distributions


def _required(extra: str | None) -> set[str]:
    """Return the distributions that an extra of rmt-rl asks for."""
    if extra is None:
        return set()
    pattern = re.compile(rf"""([\w.-]+).*;.*\bextra\s*==\s*["']{re.escape(extra)}["']""")
    requirements = requires("rmt-rl") or ()
    matches = map(pattern.match, requirements)
    return {_normalised(match[1]) for match in matches if match}


def _normalised(distribution: str) -> str:
    hyphenated = re.sub(r"[-_.]+", "-", distribution)
    return hyphenated.lower()


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in sorted(set(distributions) - UNCOUNTED):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # an extra may ask for it on other systems only
            continue
    return versions
