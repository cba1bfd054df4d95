"""Read the source of a module without importing the module: docstring and literal constants."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

Assigned = dict[str, ast.expr | None]


class Outline(NamedTuple):
    """The text of a module or class.

    Attributes:
        docstring: its docstring, `""` without one.
        defined: each name that it defines at its top level, with the expression assigned to the name, if any.
    """

    docstring: str
    defined: Assigned

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.docstring.partition("\n")[0]

    def string(self, name: str) -> str | None:
        """Return the literal string that a name stands for; None if the name stands for anything else."""
        match self.defined.get(name):
            case ast.Constant(value=str(text)):
                return text
            case _:
                return None


NOTHING = Outline("", {})


def source_path(module: str) -> Path | None:
    """Return the source file of a module; None if the module is absent or has none. Imports nothing."""
    try:
        spec = _spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin)
    return path if path.suffix == ".py" else None


def outline(module: str, name: str = "") -> Outline:
    """Return the outline of a module, or of the class or function `name` in it.

    The outline is empty if there is no source or if the source can't be parsed: importing the module then reports why.
    A class gives its own constants and, for names that it doesn't define, those of its module; the module's docstring
    stands in for a missing one.
    """
    path = source_path(module)
    tree = _parsed(path)
    if tree is None:
        return NOTHING
    whole = _outline(tree)
    if not name:
        return whole
    inner = _outline_of(name, tree)
    docstring = inner.docstring or whole.docstring
    defined = whole.defined | inner.defined
    return Outline(docstring, defined)


def _outline_of(name: str, tree: ast.Module) -> Outline:
    """Return the outline of the first class or function with this name."""
    for statement in tree.body:
        if _defines(statement, name):
            return _outline(statement)
    return NOTHING


def _spec(module: str) -> ModuleSpec | None:
    """Find a module without importing the packages that it is in, which `find_spec` alone would do."""
    parent, _, _ = module.rpartition(".")
    if not parent or parent in sys.modules:
        return find_spec(module)
    package = _spec(parent)
    if package is None:
        return None
    locations = package.submodule_search_locations
    if locations is None:
        return None
    return PathFinder.find_spec(module, locations)


def _parsed(path: Path | None) -> ast.Module | None:
    if path is None:
        return None
    try:
        source = path.read_bytes()
        return ast.parse(source)
    except (SyntaxError, ValueError, OSError):
        return None


def _outline(node: ast.stmt | ast.Module) -> Outline:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return NOTHING
    docstring = ast.get_docstring(node) or ""
    body = [] if isinstance(node, ast.FunctionDef) else node.body
    return Outline(docstring, _assigned(body))


def _assigned(statements: Iterable[ast.stmt]) -> Assigned:
    defined: Assigned = {}
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=target) | ast.ClassDef(name=target):
                defined[target] = None
            case ast.Assign(targets=targets, value=value):
                for each in targets:
                    if isinstance(each, ast.Name):
                        defined[each.id] = value
            case ast.AnnAssign(target=ast.Name(id=target), value=value):
                defined[target] = value
    return defined


def _defines(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name
