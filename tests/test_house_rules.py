"""The size limits of CONTRIBUTING.md, and docstrings that say what something is or does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 400, 200, 60  # lines
FOLDERS = ("rmt_rl", "envs", "agents", "experiments")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
QUESTIONS = ("What", "How", "Of", "Where", "Which", "Whether", "Who")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.Module) -> Iterator[Definition]:
    """Yield every class and function of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, Definition))


def lines_of(node: Definition) -> int:
    """Return the number of lines of a class or function."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_classes_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    for node in definitions(ast.parse(text)):
        limit = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
        assert lines_of(node) <= limit, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_do_not_begin_like_questions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in (tree, *definitions(tree)):
        docstring = ast.get_docstring(node) or ""
        assert not docstring.startswith(tuple(f"{word} " for word in QUESTIONS)), docstring
