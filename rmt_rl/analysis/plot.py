"""Runs side by side, from their files alone: a picture and a table, with 95% intervals over seeds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rmt_rl.analysis.aggregate import (
    Cells,
    Estimate,
    Group,
    evaluation_cells,
    is_number,
    measure,
    metric_curve,
    read_groups,
    varied_option,
)
from rmt_rl.analysis.figures import Style, finish, new_figure, picture_format, save_figure, styles
from rmt_rl.analysis.markdown import bracketed, half_width, markdown_table
from rmt_rl.errors import UsageError
from rmt_rl.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {"eval/success_rate": "success rate", "eval/mean_return": "mean return"}
MEASURES = {"success_rate": "success rate", "mean_return": "mean return"}
Panel = Literal["learning", "evaluation"]
LOG_SPAN = 20  # values further apart than this are drawn on a logarithmic axis


def plot(runs: Sequence[Path], out: Path, panels: Sequence[Panel] = get_args(Panel)) -> Path:
    """Draw learning curves and, where runs were evaluated, success against the varied option; return `out`.

    Args:
        runs: folders of training runs; those whose configs differ only in their seeds form a group.
        out: the file to write, a .png or an .svg.
        panels: what to draw, of what the runs have.

    Raises:
        UsageError: a folder holds no run, no run has anything to draw, or `out` can't be written.
    """
    return plot_groups(read_groups(runs), out, panels)


def plot_groups(groups: Sequence[Group], out: Path, panels: Sequence[Panel]) -> Path:
    """What `plot` does, of groups of runs.

    Raises:
        UsageError: no run has anything to draw, or `out` can't be written.
    """
    logged = (name for name in CURVES if any(name in run.metrics for group in groups for run in group.runs))
    metric = next(logged, None) if "learning" in panels else None
    picture_format(out)  # before anything is drawn
    option = varied_option(groups)
    value = measure(groups, option)
    cells = evaluation_cells(groups, option, value) if option and "evaluation" in panels else {}
    if metric is None and not cells:
        raise UsageError("these runs have no evaluation to draw; evaluate one with `rmt-rl evaluate RUN --vary ...`")
    curves = _curves(groups, metric) if metric else {}
    count = len(curves) + bool(cells)
    figure = new_figure(1 + 4.6 * count, 4.4)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    styled = styles(dict.fromkeys([*(group.label for group in groups), *cells]))
    for panel, (unit, drawn) in zip(axes, curves.items(), strict=False):
        _draw_curves(panel, drawn, str(metric), styled, unit)
    if option and cells:
        _draw_cells(axes[-1], cells, option, value, styled)
    _legend(figure, axes, groups)
    save_figure(figure, out, dpi=160)
    return out


def table(runs: Sequence[Path]) -> str:
    """Return a Markdown table: groups by values of the varied option; mean ± half the 95% interval over seeds.

    A single seed has the interval of its episodes in brackets. A cell of fewer seeds than its row's says so.

    Raises:
        UsageError: a folder holds no run, or no run was evaluated.
    """
    return groups_table(read_groups(runs))


def groups_table(groups: Sequence[Group]) -> str:
    """What `table` does, of groups of runs.

    Raises:
        UsageError: no run was evaluated.
    """
    option = varied_option(groups)
    value = measure(groups, option)
    cells = evaluation_cells(groups, option, value)
    if not cells:
        raise UsageError("none of these runs was evaluated; do so with `rmt-rl evaluate RUN --vary ...`")
    columns = _values(cells)
    title = f"{MEASURES[value]} at {option}" if option else MEASURES[value]
    head, rows = [title, *(_format(at) if option else "" for at in columns), "seeds"], []
    for label, row in cells.items():
        seeds = max(estimate.count for estimate in row.values())
        rows.append([label, *(_cell(row.get(at), seeds) for at in columns), str(seeds)])
    return markdown_table(head, rows)


def _curves(groups: Sequence[Group], metric: str) -> dict[str, list[Group]]:
    """The groups that logged a metric, by what their runs are counted in: learnt from data, or by acting."""
    curves: dict[str, list[Group]] = {}
    for group in groups:
        if any(metric in run.metrics for run in group.runs):
            curves.setdefault("environment steps" if group.online else "update", []).append(group)
        else:
            warnings.warn(
                f"{group.label} logged no {CURVES[metric]}; it has no learning curve", UserWarning, stacklevel=4
            )
    return curves


def _draw_curves(axes: Axes, groups: Iterable[Group], metric: str, styled: Mapping[str, Style], unit: str) -> None:
    for group in groups:
        curve = metric_curve(group, metric)
        style, updates = styled[group.label], list(curve)
        few = len(updates) <= 25
        axes.plot(
            updates,
            [estimate.mean for estimate in curve.values()],
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker if few else "",
            markersize=5,
            markeredgecolor="white",
            label=group.label,
        )
        bands = {at: _within(one.interval, CURVES[metric]) for at, one in curve.items() if one.interval}
        lows, highs = [low for low, _ in bands.values()], [high for _, high in bands.values()]
        axes.fill_between(list(bands), lows, highs, color=style.color, alpha=0.15, linewidth=0)
    _finish(axes, "During training", unit, CURVES[metric])


def _draw_cells(axes: Axes, cells: Cells, option: str, value: str, styled: Mapping[str, Style]) -> None:
    values = _values(cells)
    numeric = all(map(is_number, values))
    places = {at: float(at) if numeric else float(index) for index, at in enumerate(values)}
    logarithmic = numeric and values[0] > 0 and values[-1] / values[0] > LOG_SPAN
    for index, (label, row) in enumerate(cells.items()):
        apart = min(0.012, 0.08 / len(cells))  # so that bars of equal results lie side by side, near their tick
        shift = apart * (index - (len(cells) - 1) / 2)
        xs = [_shifted(places[at], shift, list(places.values()), logarithmic) for at in row]
        means = [estimate.mean for estimate in row.values()]
        style = styled[label]
        axes.plot(
            xs,
            means,
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markersize=7,
            markeredgecolor="white",
            label=label,
            clip_on=False,
        )
        for x, estimate in zip(xs, row.values(), strict=True):
            if estimate.interval:
                axes.vlines(
                    x, *_within(estimate.interval, MEASURES[value]), color=styled[label].color, linewidth=1.5, alpha=0.7
                )
    if logarithmic:
        axes.set_xscale("log")
    axes.minorticks_off()
    ticks = _ticks({_format(at): place for at, place in places.items()}, logarithmic)
    axes.set_xticks(list(ticks.values()), list(ticks), fontsize=8)
    _finish(axes, "After training", option.replace("_", " "), MEASURES[value])


def _finish(axes: Axes, title: str, across: str, quantity: str) -> None:
    if quantity == "success rate":
        axes.set_ylim(0, 1.05)
    finish(axes, title, across, quantity)


def _legend(figure: Figure, panels: Iterable[Axes], groups: Iterable[Group]) -> None:
    """Put one legend for all panels below them, where it covers nothing."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    seeds = {group.label: f" (n = {len(group.runs)})" for group in groups}
    labels = [f"{label}{seeds.get(label, '')}" for label in handles]
    longest = 0.8 + 0.08 * max(map(len, labels))  # inches, the line sample included
    columns = max(1, min(len(labels), int(figure.get_figwidth() / longest)))
    figure.set_figheight(4.2 + 0.22 * ceil(len(labels) / columns))
    figure.legend(
        list(handles.values()),
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title="mean and 95% interval over n seeds (of a single seed: over its episodes)",
        title_fontsize=9,
    )


def _within(interval: Interval, quantity: str) -> Interval:
    """Cut an interval of a rate at 0 and 1: Student's may reach beyond."""
    return (max(0.0, interval[0]), min(1.0, interval[1])) if quantity == "success rate" else interval


def _values(cells: Cells) -> list[Any]:
    """Return the varied option's values, in order."""
    values = {at for row in cells.values() for at in row}
    return sorted(values, key=lambda at: (not is_number(at), at if is_number(at) else str(at)))


def _shifted(place: float, shift: float, places: Sequence[float], logarithmic: bool) -> float:
    low, high = min(places), max(places)
    return float(place * (high / low) ** shift) if logarithmic else place + (high - low) * shift


def _ticks(places: Mapping[str, float], logarithmic: bool) -> dict[str, float]:
    """Choose the labels that have room: the last one, and from the left all that touch neither it nor their left."""
    scale = log10 if logarithmic else float
    span = scale(max(places.values())) - scale(min(places.values()))

    def apart(one: str, other: str) -> bool:
        return abs(scale(places[one]) - scale(places[other])) > 0.018 * span * (len(one) + len(other)) / 2

    last = max(places, key=lambda label: places[label])
    kept: list[str] = []
    for label in places:
        if label != last and apart(label, last) and all(apart(label, other) for other in kept):
            kept.append(label)
    return {label: places[label] for label in [*kept, last]}


def _format(value: Any) -> str:
    return f"{value:,}" if is_number(value) else str(value)


def _cell(estimate: Estimate | None, seeds: int) -> str:
    if estimate is None:
        return ""
    text = f"{estimate.mean:.2f}"
    text += half_width(estimate.interval) if estimate.count > 1 else bracketed(estimate.interval)
    return text if estimate.count == seeds else f"{text} (n = {estimate.count})"
