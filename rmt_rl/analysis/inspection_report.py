"""An `Inspection` to look at: tables for the terminal, and a picture.

Steps and segments are counted from 1, as in the picture. Of a state with many leaves those are shown that are furthest
apart after all the noise: that's where the memory is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from rmt_rl.analysis.figures import COLOURS, MARKERS, finish, new_figure, save_figure
from rmt_rl.analysis.inspection import Inspection
from rmt_rl.analysis.inspection_measures import Attention, Retained, Written
from rmt_rl.analysis.markdown import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "inspection.png"
MOST_ROWS = 12  # of a heat map that are labelled
NOISE = "segments of noise, the same in all lanes"


# Tables


def tables(inspection: Inspection) -> str:
    """Return the main numbers as two Markdown tables, each below a line of explanation."""
    parameters, state_bytes = inspection.sizes
    groups, best = inspection.grouped_by, next(iter(_drawn(inspection)[1:]), None)
    looks = [look for each in inspection.written for look in each.attention]
    old = any(look.cached or look.read for look in looks)
    lines = [
        f"{title(inspection)}: {parameters:,} parameters, {state_bytes:,} bytes of state a lane",
        "",
        "Writing: relative change of the state; the step that it depends on most"
        + bool(looks) * "; where the write tokens look, on average over layers",
        _table([_writing_row(each, old) for each in inspection.written]),
        "",
        "Retention through the same noise in all lanes: distance between states, over their norm",
    ]
    if groups:
        lines[-1] += f", grouped by {groups};"
        lines += ["how much likelier (nats) an action is to lanes that should take it; share of them that do"]
    if best:
        lines += [
            f"{best}: the same distance of this leaf, of all (which count alike in the whole) the largest in the end"
        ]
    rows = [_retention_row(each, bool(groups), best) for each in inspection.retained]
    return "\n".join([*lines, _table(rows)])


def title(inspection: Inspection) -> str:
    """What was inspected."""
    return f"{inspection.env} {inspection.agent}, {inspection.checkpoint}"


def _writing_row(written: Written, old: bool) -> dict[str, str]:
    """With a column for old memory where any is attended to."""
    first = int(np.argmax(written.influence))
    row = {
        "segment": str(written.segment),
        "episodes": str(written.lanes),
        "change": f"{next(iter(written.change.values())):.3f}",
        "depends on step": f"{first + 1} ({written.influence[first]:.0%})",
    }
    if old:
        row["at old memory"] = f"{np.mean([each.cached + each.read for each in written.attention]):.0%}"
    if written.attention:
        steps = np.mean([each.steps for each in written.attention], 0)
        row |= {"at steps": f"{steps.sum():.0%}", "most at step": f"{int(steps.argmax()) + 1} ({steps.max():.0%})"}
    return row


def _retention_row(retained: Retained, grouped: bool, best: str | None) -> dict[str, str]:
    """With a column for the leaf `best`."""
    between, within = retained.apart(next(iter(retained.norm)))
    row = {"segments": f"{retained.fillers:,}"}
    if grouped:
        row |= {"between groups": f"{between:.2g}"}
    row |= {"within" if grouped else "between lanes": f"{within:.2g}"}
    if best:
        row[best] = f"{_between(retained, best, grouped):.2g}"
    if retained.margin is not None and retained.right is not None:
        row |= {"margin (nats)": f"{round(retained.margin, 2) + 0:.2f}", "right": f"{retained.right:.2f}"}
    return row


def _drawn(inspection: Inspection) -> list[str]:
    """The whole state's name and those of its leaves, the furthest apart in the end first, as many as have colours."""
    last, grouped = inspection.retained[-1], inspection.grouped_by is not None
    whole, *leaves = last.norm
    leaves.sort(key=lambda leaf: _between(last, leaf, grouped), reverse=True)
    return [whole, *leaves][: len(COLOURS)]


def _between(retained: Retained, leaf: str, grouped: bool) -> float:
    """The distance over the norm between groups; of a single group, between lanes."""
    between, within = retained.apart(leaf)
    return between if grouped else within


def _table(rows: Sequence[dict[str, str]]) -> str:
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows], left=0, padded=True)


# Picture


def draw(inspection: Inspection, folder: Path) -> Path:
    """Draw writing above and retention below into the folder's inspection.png, and return its path.

    Raises:
        UsageError: the file can't be written.
    """
    looks = any(each.attention for each in inspection.written)
    figure = new_figure(15 if looks else 11, 8.4)
    figure.suptitle(tables(inspection).partition("\n")[0], x=0.01, ha="left", fontsize=13)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    panels = list(above.subplots(1, 3 if looks else 2, squeeze=False)[0])
    _draw_change(panels[0], inspection)
    _draw_influence(panels[1], inspection.written)
    if looks:
        _draw_attention(panels[2], inspection.written)
    grouped = inspection.grouped_by is not None
    panels = list(below.subplots(1, 2 if grouped else 1, squeeze=False)[0])
    _draw_apart(panels[0], inspection)
    if grouped:
        _draw_margin(panels[1], inspection.retained)
    save_figure(figure, folder / PICTURE, dpi=130)
    return folder / PICTURE


def _draw_change(axes: Axes, inspection: Inspection) -> None:
    segments = [each.segment for each in inspection.written]
    for name, colour, marker in _styles(inspection):
        changes = [each.change[name] for each in inspection.written]
        axes.plot(segments, changes, color=colour, marker=marker, markeredgecolor="white", label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    finish(axes, "How much a segment changes the state", "segment of an episode", "relative change of the state")
    _legend(axes, inspection)


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


def _draw_apart(axes: Axes, inspection: Inspection) -> None:
    retained, grouped_by = inspection.retained, inspection.grouped_by
    fillers = [each.fillers for each in retained]
    for name, colour, marker in _styles(inspection):
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
    finish(
        axes, "How far apart states stay", "segments of noise, the same in all lanes", "distance / norm of the state"
    )
    _legend(axes, inspection, loc="upper left", bbox_to_anchor=(1, 1))  # beside, so that it hides no line


def _draw_margin(axes: Axes, retained: Sequence[Retained]) -> None:
    fillers = [each.fillers for each in retained]
    margins, right = (np.array([getattr(each, name) for each in retained]) for name in ("margin", "right"))
    axes.plot(fillers, margins, color=COLOURS[0], marker="o", markeredgecolor="white")
    axes.axhline(0, color="grey", linewidth=0.8)
    _counts(axes, fillers)
    finish(axes, "Does memory still decide the action?", NOISE, "margin (nats)")
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


def _styles(inspection: Inspection) -> list[tuple[str, str, str]]:
    """Name, colour and marker of what is drawn."""
    return list(zip(_drawn(inspection), COLOURS, MARKERS, strict=False))


def _legend(axes: Axes, inspection: Inspection, **place: Any) -> None:
    missing = len(inspection.retained[-1].norm) - len(_drawn(inspection))
    title = f"{missing} leaves that end\nless far apart are left out" if missing else None
    axes.legend(title=title, title_fontsize=8, framealpha=0.7, edgecolor="none", fontsize=8, **place)
