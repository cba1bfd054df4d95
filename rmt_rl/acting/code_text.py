"""Source code without its prose, so that an edited comment or docstring leaves the hash of the code as it was."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

Tokens: TypeAlias = list[tokenize.TokenInfo]

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class _Range:
    """The characters of a text from the first place up to the last; rows are counted from 0."""

    row: int
    column: int
    last_row: int
    last_column: int

    @property
    def rows(self) -> range:
        return range(self.row, self.last_row + 1)


def without_prose(source: str, tree: ast.Module) -> str:
    """Return the source without comments, docstrings and blank lines.

    They are cut out of the text, so the result is the same in every version of Python. Tokens would differ: from
    Python 3.12 on, an f-string is several of them.

    Args:
        source: Python code whose lines end in newlines alone.
        tree: `ast.parse(source)`.
    """
    lines = source.split("\n")
    tokens = _tokens(source)
    comments = _of_type(tokenize.COMMENT, tokens)
    docstrings = _docstrings(tree, lines)
    prose = [*comments, *docstrings]
    prose_rows = _rows(prose)
    strings = _of_type(tokenize.STRING, tokens)
    f_strings = _f_strings(tree)
    string_rows = _rows([*strings, *f_strings])  # blank lines mean something here
    kept = []
    for row, line in enumerate(_cut(lines, prose)):
        has_prose = row in prose_rows
        if has_prose:
            line = line.rstrip()
        may_drop = has_prose or row not in string_rows
        is_blank = not line.strip()
        if not (is_blank and may_drop):
            kept.append(line)
    return "\n".join(kept)


def _tokens(source: str) -> Tokens:
    readline = io.StringIO(source).readline
    return list(tokenize.generate_tokens(readline))


def _rows(ranges: Iterable[_Range]) -> set[int]:
    rows: set[int] = set()
    for each in ranges:
        rows.update(each.rows)
    return rows


def _cut(lines: list[str], ranges: Iterable[_Range]) -> list[str]:
    """Return the lines without the characters in these ranges."""
    characters = [list(line) for line in lines]
    for each in ranges:
        for row in each.rows:
            line = characters[row]
            first = each.column if row == each.row else 0
            last = each.last_column if row == each.last_row else len(line)
            for column in range(first, last):
                line[column] = ""
    return list(map("".join, characters))


def _of_type(kind: int, tokens: Tokens) -> Iterator[_Range]:
    """Yield the ranges of the tokens of a type, such as `tokenize.COMMENT`."""
    for token in tokens:
        if token.type == kind:
            line, column = token.start
            last_line, last_column = token.end
            row = line - 1
            last_row = last_line - 1
            yield _Range(row, column, last_row, last_column)


def _f_strings(tree: ast.Module) -> Iterator[_Range]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            row, last_row = _rows_of(node)
            yield _Range(row, 0, last_row, 0)


def _docstrings(tree: ast.Module, lines: list[str]) -> Iterator[_Range]:
    for node in ast.walk(tree):
        if not isinstance(node, _DOCUMENTED):
            continue
        docstring = ast.get_docstring(node, clean=False)
        if docstring is not None:
            yield _range_of_statement(node.body[0], lines)


def _range_of_statement(statement: ast.stmt, lines: list[str]) -> _Range:
    row, last_row = _rows_of(statement)
    column = _characters(lines[row], statement.col_offset)
    last_column = _characters(lines[last_row], statement.end_col_offset or 0)
    return _Range(row, column, last_row, last_column)


def _rows_of(node: ast.stmt | ast.expr) -> tuple[int, int]:
    """Return the first and the last row of a node."""
    last_line = node.end_lineno or node.lineno
    return node.lineno - 1, last_line - 1


def _characters(line: str, size: int) -> int:
    """Return how many characters the first `size` bytes of a line are; a syntax tree counts bytes."""
    start = line.encode()[:size]
    return len(start.decode())
