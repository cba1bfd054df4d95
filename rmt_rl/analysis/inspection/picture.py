"""An `Inspection` as a picture: writing above, retention below.

Steps and segments are counted from 1, as in the tables. Of a state with many leaves those are drawn that are furthest
apart after all filler segments, as many as there are colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from rmt_rl.analysis.figures import COLOURS, MARKERS, finish, in_default_style, new_figure, save_figure
from rmt_rl.analysis.inspection.attention import Attention
from rmt_rl.analysis.inspection.inspect_run import Inspection
from rmt_rl.analysis.inspection.retention import Retained
from rmt_rl.analysis.inspection.tables import leaves_apart, title
from rmt_rl.analysis.inspection.writing import Written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

PICTURE = "inspection.png"
MOST_ROWS = 12  # of a heat map that are labelled
FILLERS = "filler segments, the same for all memories"
EDGE = "white"  # around markers


@in_default_style
def draw_inspection(inspection: Inspection, folder: Path) -> Path:
    """Draw the folder's inspection.png, and return its path.

    Raises:
        UsageError: the file can't be written.
    """
    attends = any(written.attention for written in inspection.written)
    figure = new_figure(15 if attends else 11, 8.4)
    figure.suptitle(title(inspection), x=0.01, ha="left", fontsize=13)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    _draw_writing(above, inspection, attends)
    _draw_retention(below, inspection)
    save_figure(figure, folder / PICTURE, dpi=130)
    return folder / PICTURE


def _panels(figure: SubFigure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _draw_writing(figure: SubFigure, inspection: Inspection, attends: bool) -> None:
    panels = _panels(figure, 3 if attends else 2)
    _draw_change(panels[0], inspection)
    _draw_influence(panels[1], inspection.written)
    if attends:
        _draw_attention(panels[2], inspection.written)


def _draw_retention(figure: SubFigure, inspection: Inspection) -> None:
    grouped = inspection.grouped_by is not None
    panels = _panels(figure, 2 if grouped else 1)
    _draw_distance(panels[0], inspection)
    if grouped:
        _draw_margin(panels[1], inspection.retained)


def _drawn_leaves(inspection: Inspection) -> Iterator[tuple[str, str, str]]:
    """Yield name, colour and marker of what is drawn."""
    yield from zip(leaves_apart(inspection), COLOURS, MARKERS, strict=False)


def _draw_leaf_legend(axes: Axes, inspection: Inspection, **place: Any) -> None:
    missing = max(0, len(leaves_apart(inspection)) - len(COLOURS))
    title = f"{missing} leaves that end\nless far apart are left out" if missing else None
    axes.legend(
        title=title,
        title_fontsize=8,
        framealpha=0.7,
        edgecolor="none",
        fontsize=8,
        **place,
    )


# Writing


def _draw_change(axes: Axes, inspection: Inspection) -> None:
    segments = [written.segment for written in inspection.written]
    for name, colour, marker in _drawn_leaves(inspection):
        changes = [written.change[name] for written in inspection.written]
        axes.plot(
            segments,
            changes,
            color=colour,
            marker=marker,
            markeredgecolor=EDGE,
            label=name,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    finish(axes, "Change of the state by each segment", "segment of the episode", "distance / norm of the state")
    _draw_leaf_legend(axes, inspection)


def _draw_influence(axes: Axes, written: Sequence[Written]) -> None:
    rows = {f"segment {each.segment}": each.influence for each in written}
    _draw_heat_map(axes, rows, "Influence of each step on the new state", "share of the influence")


def _draw_attention(axes: Axes, written: Sequence[Written]) -> None:
    rows = {}
    for each in written:
        for layer in each.attention:
            rows[f"segment {each.segment}, layer {layer.layer}{_elsewhere(layer)}"] = layer.steps
    _draw_heat_map(axes, rows, "Attention of the write tokens to each step", "share of the attention")


def _elsewhere(layer: Attention) -> str:
    """Return the attention to what was there before the segment, on a line of its own."""
    parts = {"old memory": layer.read, "cache": layer.cached}
    texts = [f"{name} {share:.0%}" for name, share in parts.items() if share]
    return f"\n({', '.join(texts)})" if texts else ""


def _draw_heat_map(
    axes: Axes,
    rows: Mapping[str, Sequence[float]],
    title: str,
    quantity: str,
) -> None:
    """Draw a row of colours for each list of shares; the rest of a shorter one is left white."""
    longest = max(map(len, rows.values()))
    grid = np.full((len(rows), longest), np.nan)
    for line, shares in zip(grid, rows.values(), strict=True):
        line[: len(shares)] = shares
    image = axes.imshow(
        grid,
        cmap="Blues",
        vmin=0,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, longest + 0.5, len(rows) - 0.5, -0.5),
    )
    every = -(-len(rows) // MOST_ROWS)
    axes.set_yticks(range(0, len(rows), every), list(rows)[::every], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the segment")
    axes.set_title(title, loc="left", fontsize=11)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, label=quantity, shrink=0.9)


# Retention


def _draw_distance(axes: Axes, inspection: Inspection) -> None:
    grouped_by = inspection.grouped_by
    fillers = [retained.fillers for retained in inspection.retained]
    for name, colour, marker in _drawn_leaves(inspection):
        apart = [retained.apart(name) for retained in inspection.retained]
        between, within = zip(*apart, strict=True)
        axes.plot(
            fillers,
            between if grouped_by else within,
            color=colour,
            marker=marker,
            markeredgecolor=EDGE,
            label=name,
        )
        if grouped_by:
            axes.plot(fillers, within, color=colour, linestyle=":")
    if grouped_by:
        axes.plot([], [], color="grey", label=f"between groups ({grouped_by})")
        axes.plot([], [], color="grey", linestyle=":", label="within groups")
    _set_filler_axis(axes, fillers)
    axes.set_ylim(bottom=0)
    finish(axes, "Distance between memories", FILLERS, "distance / norm of the state")
    _draw_leaf_legend(axes, inspection, loc="upper left", bbox_to_anchor=(1, 1))  # beside, so that it hides no line


def _draw_margin(axes: Axes, retained: Sequence[Retained]) -> None:
    margin_colour, right_colour, *_ = COLOURS
    fillers = [each.fillers for each in retained]
    margins = [each.margin for each in retained if each.margin is not None]
    right = [each.right for each in retained if each.right is not None]
    axes.plot(
        fillers,
        margins,
        color=margin_colour,
        marker="o",
        markeredgecolor=EDGE,
    )
    axes.axhline(0, color="grey", linewidth=0.8)
    _set_filler_axis(axes, fillers)
    finish(axes, "Does the memory still decide the action?", FILLERS, "margin (nats)")
    axes.yaxis.label.set_color(margin_colour)
    other = axes.twinx()
    other.plot(fillers, right, color=right_colour, linestyle="--")
    other.set_ylim(0, 1.05)
    other.set_ylabel("share of right actions", color=right_colour)
    other.spines[["top"]].set_visible(False)


def _set_filler_axis(axes: Axes, fillers: Sequence[int]) -> None:
    """Make the axis logarithmic from 1 on, with a place for 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    powers = range(len(str(fillers[-1])))
    ticks = [0, *(10**power for power in powers)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(left=-0.1)
