"""Pictures of more groups than lines can be told apart: learning curves in small panels, scores as a heat map."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.ticker import MaxNLocator

from rmt_rl.analysis.aggregate import INTERVALS_OVER, Cells, Estimate, Group, metric_curve
from rmt_rl.analysis.comparison import SCORE_NAMES
from rmt_rl.analysis.figures import COLOURS, literal, new_figure
from rmt_rl.analysis.heat_map import draw_heat_map, heat_map_height
from rmt_rl.analysis.panels import CURVES, EvaluationPanel, LearningPanel, draw_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_COLUMNS = 4  # of small panels
SMALL_WIDTH, SMALL_HEIGHT = 2.0, 1.55  # inches of a small panel
CELLS_WIDTH = 6.0  # inches of a heat map's cells
CHARACTER = 0.085  # inches of a character of a label
LONGEST_LABEL = 44  # characters; longer ones go on in further lines
TITLE = 26  # characters of a line above a small panel
OTHERS = "#c4c4c4"
CAPTION = 0.35  # inches


class _Part(NamedTuple):
    """A part of the picture, with its size in inches."""

    panel: LearningPanel | EvaluationPanel
    width: float
    height: float


def draw_many(
    groups: Sequence[Group],
    curves: Sequence[LearningPanel],
    evaluations: Sequence[EvaluationPanel],
) -> Figure:
    """Return the picture of many groups.

    Args:
        groups: all groups.
        curves: learning curves; each becomes an area of small panels, one a group.
        evaluations: scores by the varied option or by the episode of a life; each becomes a heat map.
    """
    seeds = {group.label: len(group.runs) for group in groups}
    parts = [_learning_part(panel) for panel in curves]
    parts += [_evaluation_part(panel, seeds) for panel in evaluations]
    width = sum(part.width for part in parts)
    height = max(part.height for part in parts)
    figure = new_figure(width, height + CAPTION)
    figure.supxlabel(_caption(groups), fontsize=9)
    areas = figure.subfigures(1, len(parts), squeeze=False, width_ratios=[part.width for part in parts])
    for area, part in zip(areas[0], parts, strict=True):
        if isinstance(part.panel, LearningPanel):
            _draw_small_panels(area, part.panel)
        else:
            _draw_scores(area, part.panel, seeds)
    return figure


def _caption(groups: Sequence[Group]) -> str:
    counts = {len(group.runs) for group in groups}
    if len(counts) > 1:
        return INTERVALS_OVER
    (count,) = counts
    return f"mean and 95% interval over {count} seeds" if count > 1 else "mean and 95% interval over episodes"


# Learning curves


def _learning_part(panel: LearningPanel) -> _Part:
    columns = min(MOST_COLUMNS, len(panel.groups))
    rows = ceil(len(panel.groups) / columns)
    lines = max(len(_title(group.label)) for group in panel.groups)
    return _Part(panel, 0.6 + SMALL_WIDTH * columns, 0.9 + (SMALL_HEIGHT + 0.16 * lines) * rows)


def _title(label: str) -> list[str]:
    """Return a label in lines that fit above a small panel."""
    return textwrap.wrap(literal(label), TITLE, max_lines=3, placeholder=" ...") or [""]


def _draw_small_panels(area: SubFigure, panel: LearningPanel) -> None:
    """Draw each group's curve in a panel of its own, before those of all others in grey."""
    quantity = CURVES[panel.metric]
    curves = {group.label: metric_curve(group, panel.metric) for group in panel.groups}
    columns = min(MOST_COLUMNS, len(curves))
    rows = ceil(len(curves) / columns)
    grid = area.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    places: Iterator[Axes] = iter(grid.flat)
    for label in curves:
        _draw_small_panel(next(places), label, curves, quantity)
    for axes in places:
        axes.remove()
    area.suptitle("During training", fontsize=11, x=0.01, ha="left")
    area.supxlabel(panel.unit, fontsize=9)
    area.supylabel(quantity, fontsize=9)


def _draw_small_panel(axes: Axes, label: str, curves: Mapping[str, Mapping[int, Estimate]], quantity: str) -> None:
    for other, curve in curves.items():
        if other != label:
            axes.plot(list(curve), _means(curve), color=OTHERS, linewidth=0.7)
    own = curves[label]
    draw_band(axes, own, quantity, COLOURS[0])
    axes.plot(list(own), _means(own), color=COLOURS[0], linewidth=1.8)
    axes.set_title("\n".join(_title(label)), fontsize=8, loc="left")
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if quantity == "success rate":
        axes.set_ylim(0, 1.05)


def _means(curve: Mapping[int, Estimate]) -> list[float]:
    return [estimate.mean for estimate in curve.values()]


# Scores by the varied option


def _row_labels(seeds: Mapping[str, int], cells: Cells) -> list[str]:
    """Return the labels of the heat map's rows as they are shown, with the numbers of seeds if these differ."""
    differ = len(set(seeds.values())) > 1
    shown = []
    for label in cells:
        count = f" (n = {seeds[label]})" if differ and label in seeds else ""
        lines = textwrap.wrap(literal(label) + count, LONGEST_LABEL, max_lines=2, placeholder=" ...")
        shown.append("\n".join(lines))
    return shown


def _evaluation_part(panel: EvaluationPanel, seeds: Mapping[str, int]) -> _Part:
    labels = _row_labels(seeds, panel.cells)
    lines = [line for label in labels for line in label.split("\n")]
    longest = max(map(len, lines), default=0)
    return _Part(panel, CELLS_WIDTH + CHARACTER * longest, heat_map_height(panel.cells))


def _draw_scores(area: SubFigure, panel: EvaluationPanel, seeds: Mapping[str, int]) -> None:
    quantity = SCORE_NAMES[panel.score]
    axes = area.subplots()
    rows = _row_labels(seeds, panel.cells)
    draw_heat_map(axes, panel.cells, rows, panel.option.replace("_", " "), quantity == "success rate")
    axes.set_title(f"After training: {quantity}", loc="left", fontsize=11)
