"""The size limits of CONTRIBUTING.md, and docstrings that say what something is or does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 400, 200, 60  # lines
FOLDERS = ("rmt_rl", "envs", "agents", "experiments")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
QUESTIONS = ("What", "How", "Of", "Where", "Which", "Whether", "Who")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def definitions(tree: ast.Module) -> Iterator[Definition]:
    """Yield every class and function of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, Definition))


def lines_of(node: Definition) -> int:
    """Return the number of lines of a class or function."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_classes_and_functions_are_short() -> None:
    assert [long for path in FILES for long in too_long(path)] == []


def too_long(path: Path) -> Iterator[str]:
    """Yield the file and those of its classes and functions that are above their limits."""
    place = path.relative_to(ROOT)
    if path.read_text(encoding="utf-8").count("\n") > LONGEST_FILE:
        yield str(place)
    for node in definitions(parsed(path)):
        limit = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
        if lines_of(node) > limit:
            yield f"{place}:{node.lineno} {node.name}"


def test_no_protocol_is_checked_by_isinstance() -> None:
    """From Python 3.12 on it sees no attribute that `__getattr__` gives, such as the parameters of a PyTorch module."""
    checked = [path for path in FILES if "runtime_checkable" in path.read_text(encoding="utf-8")]
    assert not checked, "write a function that asks hasattr"


def test_text_files_name_their_encoding() -> None:
    """Without one it depends on the machine."""
    assert [call for path in FILES for call in without_encoding(path)] == []


def without_encoding(path: Path) -> Iterator[str]:
    calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
    for call in filter(reads_or_writes_text, calls):
        if "encoding" not in {keyword.arg for keyword in call.keywords}:
            yield f"{path.relative_to(ROOT)}:{call.lineno} {ast.unparse(call)}"


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


def test_docstrings_do_not_begin_like_questions() -> None:
    assert [docstring for path in FILES for docstring in questions(path)] == []


def questions(path: Path) -> Iterator[str]:
    tree = parsed(path)
    for node in (tree, *definitions(tree)):
        docstring = ast.get_docstring(node) or ""
        if docstring.startswith(tuple(f"{word} " for word in QUESTIONS)):
            yield f"{path.relative_to(ROOT)}: {docstring}"
