"""An `Inspection` to look at: tables for the terminal, and a picture.

Steps and segments are counted from 1, as in the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rmt_rl.files import write_atomically
from rmt_rl.inspection import Inspection
from rmt_rl.inspection_measures import Attention, Retained, Written
from rmt_rl.plot import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "inspection.png"
MOST_ROWS = 12  # of a heat map that are labelled
NOISE = "segments of noise, the same in all lanes"


# Tables


def tables(inspection: Inspection) -> str:
    """Return the main numbers as two Markdown tables, each below a line of explanation."""
    parameters, state_bytes = inspection.sizes
    groups = inspection.grouped_by
    looks = any(each.attention for each in inspection.written)
    lines = [
        f"{title(inspection)}: {parameters:,} parameters, {state_bytes:,} bytes of state a lane",
        "",
        "Writing: relative change of the state; the step that it depends on most"
        + looks * "; where the write tokens look, on average over layers",
        *_table([_writing_row(each, looks) for each in inspection.written]),
        "",
        "Retention through the same noise in all lanes: distance between states, over their norm",
    ]
    if groups:
        lines[-1] += f", grouped by {groups};"
        lines += ["how much likelier (nats) an action is to lanes that should take it; share of them that do"]
    return "\n".join([*lines, *_table([_retention_row(each, bool(groups)) for each in inspection.retained])])


def title(inspection: Inspection) -> str:
    """What was inspected."""
    return f"{inspection.env} {inspection.agent}, {inspection.checkpoint}"


def _writing_row(written: Written, looks: bool) -> dict[str, str]:
    first = int(np.argmax(written.influence))
    row = {
        "segment": str(written.segment),
        "episodes": str(written.lanes),
        "change": f"{_whole(written.change):.3f}",
        "depends on step": f"{first + 1} ({written.influence[first]:.0%})",
    }
    if looks:
        steps = np.mean([each.steps for each in written.attention], 0)
        old = np.mean([each.cached + each.read for each in written.attention])
        row |= {"at old memory": f"{old:.0%}", "at steps": f"{steps.sum():.0%}"}
        row["most at step"] = f"{int(steps.argmax()) + 1} ({steps.max():.0%})"
    return row


def _retention_row(retained: Retained, grouped: bool) -> dict[str, str]:
    between, within = retained.apart(next(iter(retained.norm)))
    row = {"segments": f"{retained.fillers:,}"}
    if not grouped:
        return row | {"between lanes": f"{within:.2g}"}
    row |= {"between groups": f"{between:.2g}", "within": f"{within:.2g}"}
    if retained.margin is not None and retained.right is not None:
        row |= {"margin (nats)": f"{round(retained.margin, 2) + 0:.2f}", "right": f"{retained.right:.2f}"}
    return row


def _whole(by_leaf: dict[str, float]) -> float:
    """Of the whole state, which comes first."""
    return next(iter(by_leaf.values()))


def _table(rows: Sequence[dict[str, str]]) -> Iterable[str]:
    """A Markdown table in columns that line up."""
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    yield "| " + " | ".join(f"{name:>{width}}" for name, width in widths.items()) + " |"
    yield "|" + "|".join("-" * (width + 1) + ":" for width in widths.values()) + "|"
    for row in rows:
        yield "| " + " | ".join(f"{row[name]:>{width}}" for name, width in widths.items()) + " |"


# Picture


def draw(inspection: Inspection, folder: Path) -> Path:
    """Draw writing above and retention below into the folder's inspection.png, and return its path.

    Raises:
        UsageError: the file can't be written.
    """
    looks = any(each.attention for each in inspection.written)
    figure = Figure(figsize=(15 if looks else 11, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(tables(inspection).partition("\n")[0], x=0.01, ha="left", fontsize=13)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    panels = list(above.subplots(1, 3 if looks else 2, squeeze=False)[0])
    _draw_change(panels[0], inspection.written)
    _draw_influence(panels[1], inspection.written)
    if looks:
        _draw_attention(panels[2], inspection.written)
    grouped = inspection.grouped_by is not None
    panels = list(below.subplots(1, 2 if grouped else 1, squeeze=False)[0])
    _draw_apart(panels[0], inspection.retained, inspection.grouped_by)
    if grouped:
        _draw_margin(panels[1], inspection.retained)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    write_atomically(folder / PICTURE, picture.getvalue())
    return folder / PICTURE


def _draw_change(axes: Axes, written: Sequence[Written]) -> None:
    segments = [each.segment for each in written]
    for name, colour, marker in _styles(written[0].change):
        changes = [each.change[name] for each in written]
        axes.plot(segments, changes, color=colour, marker=marker, markeredgecolor="white", label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    _finish(axes, "How much a segment changes the state", "segment of an episode", "relative change of the state")
    axes.legend(framealpha=0.7, edgecolor="none", fontsize=8)


def _draw_influence(axes: Axes, written: Sequence[Written]) -> None:
    rows = {f"segment {each.segment}": each.influence for each in written}
    _heat(axes, rows, "Steps that what is written depends on", "share of the influence")


def _draw_attention(axes: Axes, written: Sequence[Written]) -> None:
    rows = {
        f"segment {each.segment}, layer {look.layer}{_elsewhere(look)}": look.steps
        for each in written
        for look in each.attention
    }
    _heat(axes, rows, "Steps that the write tokens look at", "share of the attention")


def _elsewhere(look: Attention) -> str:
    """What of the attention goes to what was there before the segment, on a line of its own."""
    parts = {"old memory": look.read, "cache": look.cached}
    text = ", ".join(f"{name} {part:.0%}" for name, part in parts.items() if part)
    return f"\n({text})" if text else ""


def _heat(axes: Axes, rows: dict[str, tuple[float, ...]], title: str, quantity: str) -> None:
    """A row of colours for each list of shares; the rest of a shorter one is left white."""
    longest = max(map(len, rows.values()))
    grid = np.full((len(rows), longest), np.nan)
    for line, shares in zip(grid, rows.values(), strict=True):
        line[: len(shares)] = shares
    extent = (0.5, longest + 0.5, len(rows) - 0.5, -0.5)
    image = axes.imshow(grid, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest", extent=extent)
    every = -(-len(rows) // MOST_ROWS)
    axes.set_yticks(range(0, len(rows), every), list(rows)[::every], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the segment")
    axes.set_title(title, loc="left", fontsize=11)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, label=quantity, shrink=0.9)


def _draw_apart(axes: Axes, retained: Sequence[Retained], grouped_by: str | None) -> None:
    fillers = [each.fillers for each in retained]
    for name, colour, marker in _styles(retained[0].norm):
        between, within = zip(*(each.apart(name) for each in retained), strict=True)
        if grouped_by:
            axes.plot(fillers, between, color=colour, marker=marker, markeredgecolor="white", label=name)
            axes.plot(fillers, within, color=colour, linestyle=":")
        else:
            axes.plot(fillers, within, color=colour, marker=marker, markeredgecolor="white", label=name)
    if grouped_by:
        axes.plot([], [], color="grey", label=f"between groups ({grouped_by})")
        axes.plot([], [], color="grey", linestyle=":", label="within groups")
    _counts(axes, fillers)
    axes.set_ylim(bottom=0)
    _finish(
        axes, "How far apart states stay", "segments of noise, the same in all lanes", "distance / norm of the state"
    )
    axes.legend(framealpha=0.7, edgecolor="none", fontsize=8)


def _draw_margin(axes: Axes, retained: Sequence[Retained]) -> None:
    fillers = [each.fillers for each in retained]
    margins, right = (np.array([getattr(each, name) for each in retained]) for name in ("margin", "right"))
    axes.plot(fillers, margins, color=COLOURS[0], marker="o", markeredgecolor="white")
    axes.axhline(0, color="grey", linewidth=0.8)
    _counts(axes, fillers)
    _finish(axes, "Does memory still decide the action?", NOISE, "margin (nats)")
    axes.yaxis.label.set_color(COLOURS[0])
    other = axes.twinx()
    other.plot(fillers, right, color=COLOURS[1], linestyle="--")
    other.set_ylim(0, 1.05)
    other.set_ylabel("right actions", color=COLOURS[1])
    other.spines[["top"]].set_visible(False)


def _counts(axes: Axes, fillers: Sequence[int]) -> None:
    """Logarithmic from 1 on, with a place for 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = [0, *(10**power for power in range(len(str(fillers[-1]))))]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(left=-0.1)


def _styles(leaves: Iterable[str]) -> list[tuple[str, str, str]]:
    """Name, colour and marker of what is drawn: the whole state first, then as many leaves as there are colours."""
    return list(zip(leaves, COLOURS, MARKERS, strict=False))


def _finish(axes: Axes, title: str, across: str, quantity: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
