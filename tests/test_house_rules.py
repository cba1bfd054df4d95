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


def test_no_protocol_is_checked_by_isinstance() -> None:
    """From Python 3.12 on it sees no attribute that `__getattr__` gives, such as the parameters of a PyTorch module."""
    checked = [path for path in FILES if "runtime_checkable" in path.read_text(encoding="utf-8")]
    assert not checked, "write a function that asks hasattr"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_name_their_encoding(path: Path) -> None:
    """Without one it depends on the machine."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in filter(reads_or_writes_text, calls):
        assert "encoding" in {keyword.arg for keyword in call.keywords}, ast.unparse(call)


def reads_or_writes_text(call: ast.Call) -> bool:
    """Return True if a call opens a file, or the output of a process, as text."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    texts = [value.value for value in [*call.args, *options.values()] if isinstance(value, ast.Constant)]
    modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwaxbt+")]
    is_method = isinstance(function, ast.Attribute)
    if (is_method and name in ("read_text", "write_text")) or "text" in options or "universal_newlines" in options:
        return True
    if name == "open":
        is_path_or_builtin = not call.args or bool(modes) or isinstance(function, ast.Name)
        return is_path_or_builtin and not any("b" in mode for mode in modes)
    return name.endswith("TemporaryFile") and bool(modes) and "b" not in modes[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_do_not_begin_like_questions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in (tree, *definitions(tree)):
        docstring = ast.get_docstring(node) or ""
        assert not docstring.startswith(tuple(f"{word} " for word in QUESTIONS)), docstring
