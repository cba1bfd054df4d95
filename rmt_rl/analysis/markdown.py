"""Tables in Markdown, and numbers in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rmt_rl.statistics import Interval, mean, mean_interval

LEFT = "---"  # Markdown's marks of a column's alignment
RIGHT = "---:"


def markdown_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
    padded: bool = False,
) -> str:
    """Return a table without a newline at its end.

    Args:
        head: names of the columns.
        rows: of as many cells each.
        left: number of columns that are aligned left; all others hold numbers and are aligned right.
        padded: fill cells with spaces, so that columns line up in a terminal.
    """
    rows = list(rows)
    numbers = len(head) - left
    marks = [LEFT] * left + [RIGHT] * numbers
    widths = []
    rule = []
    for mark, *column in zip(marks, head, *rows, strict=True):  # all rows have as many cells
        width = max(map(len, [mark, *column])) if padded else 0
        widths.append(width)
        rule.append(mark.rjust(width, "-"))
    lines = []
    for cells in (head, rule, *rows):
        lines.append(_line(cells, widths, left))
    return "\n".join(lines)


def _line(cells: Iterable[str], widths: Sequence[int], left: int) -> str:
    filled = []
    for column, text in enumerate(cells):
        cell = text.replace("\n", " ")  # one from a file would begin a line of its own
        width = widths[column]
        is_left = column < left
        filled.append(cell.ljust(width) if is_left else cell.rjust(width))
    joined = " | ".join(filled)
    return f"| {joined} |"


def half_width(interval: Interval | None, digits: int = 2) -> str:
    """Return ` ± ` and half an interval's width; an empty text where there is no interval."""
    if interval is None:
        return ""
    low, high = interval
    half = (high - low) / 2
    return f" ± {half:.{digits}f}"


def bracketed(interval: Interval | None, digits: int = 2) -> str:
    """Return ` [low, high]`; an empty text where there is no interval."""
    if interval is None:
        return ""
    low, high = interval
    return f" [{low:.{digits}f}, {high:.{digits}f}]"


def mean_cell(values: Sequence[float]) -> str:
    """Return the mean of seeds ± half its 95% interval; `-` without values."""
    return f"{mean(values):.2f}{half_width(mean_interval(values))}" if values else "-"
