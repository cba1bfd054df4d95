"""Runs side by side in a Markdown table: success or return by the varied option, with 95% intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from rmt_rl.analysis.aggregate import (
    Cells,
    Estimate,
    Group,
    Value,
    compared_score,
    evaluation_cells,
    in_order,
    read_groups,
    varied_option,
)
from rmt_rl.analysis.markdown import bracketed, half_width, markdown_table
from rmt_rl.analysis.run_records import is_number
from rmt_rl.errors import UsageError

SCORE_NAMES = {"success_rate": "success rate", "mean_return": "mean return"}
LEGEND = "mean ± half the 95% interval over seeds; of a single seed: mean [95% interval over its episodes]"


def comparison_table(runs: Sequence[Path]) -> str:
    """Return a Markdown table: groups by values of the varied option, its cells as `LEGEND` explains.

    A cell of fewer seeds than others in its row says so: `0.91 ± 0.06 (n = 2)`.

    Raises:
        UsageError: a folder holds no run, or no run was evaluated.
    """
    return comparison_of_groups(read_groups(runs))


def comparison_of_groups(groups: Sequence[Group]) -> str:
    """Return the table of `comparison_table` for groups of runs.

    Raises:
        UsageError: no run was evaluated.
    """
    option = varied_option(groups)
    score = compared_score(groups, option)
    cells = evaluation_cells(groups, option, score)
    if not cells:
        raise UsageError("none of these runs was evaluated; do so with `rmt-rl evaluate RUN --vary ...`")
    values = values_of(cells)
    title = SCORE_NAMES[score]
    columns = [""]
    if option is not None:
        title = f"{title} at {option}"
        columns = [value_text(value) for value in values]
    rows = [_row(label, row, values) for label, row in cells.items()]
    return markdown_table([title, *columns, "seeds"], rows)


def values_of(cells: Cells) -> list[Value]:
    """Return the varied option's values, in order."""
    rows = cells.values()
    return in_order(chain.from_iterable(rows))


def value_text(value: Value) -> str:
    """Return a number with commas between thousands; texts as they are."""
    return f"{value:,}" if is_number(value) else str(value)


def _row(label: str, row: Mapping[Value, Estimate], values: Sequence[Value]) -> list[str]:
    seeds = max(estimate.count for estimate in row.values())
    texts = []
    for value in values:
        estimate = row.get(value)
        texts.append(_cell(estimate, seeds) if estimate else "")
    return [label, *texts, str(seeds)]


def _cell(estimate: Estimate, seeds: int) -> str:
    interval = bracketed if estimate.count == 1 else half_width
    text = f"{estimate.mean:.2f}{interval(estimate.interval)}"
    return text if estimate.count == seeds else f"{text} (n = {estimate.count})"
