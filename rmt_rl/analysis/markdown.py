"""Tables in Markdown, and numbers in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rmt_rl.statistics import Interval


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, padded: bool = False) -> str:
    """Return a table without a newline at its end.

    Args:
        head: names of the columns.
        rows: of as many cells each.
        left: columns whose cells begin at the left; all others are numbers and end at the right.
        padded: fill cells with spaces, so that columns line up in a terminal.
    """
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    rows = [head, rule, *rows]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*rows, strict=True)]
    rows[1] = [mark.rjust(width, "-") for mark, width in zip(rule, widths, strict=True)]
    return "\n".join(f"| {' | '.join(_filled(row, widths, left))} |" for row in rows)


def _filled(row: Sequence[str], widths: Sequence[int], left: int) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < left else cell.rjust(width)


def half_width(interval: Interval | None, digits: int = 2) -> str:
    """Return ` ± ` and half an interval; nothing where there is none."""
    return f" ± {(interval[1] - interval[0]) / 2:.{digits}f}" if interval else ""


def bracketed(interval: Interval | None, digits: int = 2) -> str:
    """Return ` [low, high]`; nothing where there is no interval."""
    return f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
