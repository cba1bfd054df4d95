"""Scores of many groups as a heat map: group against what was varied. As lines they would cover one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmt_rl.analysis.aggregate import Cells, Estimate, Value
from rmt_rl.analysis.comparison import value_text, values_of
from rmt_rl.analysis.figures import COLOUR_MAP, literal
from rmt_rl.analysis.markdown import half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NUMBERS = 12  # columns of cells that hold their number; narrower ones are left as colours
MOST_TICKS = 24
CELL_HEIGHT = 0.3  # inches
LIGHT_ABOVE = 0.6  # share of the colour map above which text is black


class Scores(NamedTuple):
    """The means of all cells: rows are labels, columns values; NaN where nothing was evaluated."""

    means: NDArray[np.float64]
    low: float
    high: float


def heat_map_height(cells: Cells) -> float:
    """Return the height of the panel in inches."""
    return 1.2 + CELL_HEIGHT * len(cells)


def draw_heat_map(axes: Axes, cells: Cells, rows: Sequence[str], option: str, is_rate: bool) -> None:
    """Draw estimates of a score.

    Args:
        axes: the panel.
        cells: estimates by label, then by the option's value.
        rows: the labels as they are shown, in the same order.
        option: the varied option.
        is_rate: the score is from 0 to 1.
    """
    values = values_of(cells)
    scores = _scores(cells, values, is_rate)
    image = axes.imshow(scores.means, cmap=COLOUR_MAP, vmin=scores.low, vmax=scores.high, aspect="auto")
    _name_rows_and_columns(axes, rows, values)
    if len(values) <= MOST_NUMBERS:
        for row, estimates in enumerate(cells.values()):
            _write_numbers(axes, row, values, estimates, scores)
    elif axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, shrink=0.6)
    axes.set_xlabel(literal(option))
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.set_yticks(np.arange(len(cells) + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=1.5)


def _scores(cells: Cells, values: Sequence[Value], is_rate: bool) -> Scores:
    means = np.full((len(cells), len(values)), np.nan)
    for row, estimates in enumerate(cells.values()):
        for column, value in enumerate(values):
            if value in estimates:
                means[row, column] = estimates[value].mean
    if is_rate:
        return Scores(means, 0.0, 1.0)
    return Scores(means, float(np.nanmin(means)), float(np.nanmax(means)))


def _name_rows_and_columns(axes: Axes, rows: Sequence[str], values: Sequence[Value]) -> None:
    step = ceil(len(values) / MOST_TICKS)
    columns = range(0, len(values), step)
    names = [literal(value_text(values[column])) for column in columns]
    longest = max(map(len, names))
    axes.set_xticks(list(columns), names, fontsize=8, rotation=0 if longest * len(names) < 90 else 60)
    axes.set_yticks(range(len(rows)), [literal(label) for label in rows], fontsize=9)


def _write_numbers(
    axes: Axes,
    row: int,
    values: Sequence[Value],
    estimates: Mapping[Value, Estimate],
    scores: Scores,
) -> None:
    """Write each mean and half of its interval into its cell."""
    span = scores.high - scores.low or 1.0
    for column, value in enumerate(values):
        estimate = estimates.get(value)
        if estimate is None:
            continue
        share = (estimate.mean - scores.low) / span
        colour = "black" if share > LIGHT_ABOVE else "white"
        text = f"{estimate.mean:.3g}" if abs(estimate.mean) >= 100 else f"{estimate.mean:.2f}"
        is_wide = estimate.interval is not None and estimate.interval[1] - estimate.interval[0] >= 0.005
        if is_wide:
            text += half_width(estimate.interval)
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
