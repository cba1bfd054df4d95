"""Runs side by side in a picture, drawn from their files alone, with 95% intervals over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from rmt_rl.analysis.aggregate import INTERVALS_OVER, Estimate, Group, Value, metric_curve, read_groups
from rmt_rl.analysis.comparison import SCORE_NAMES, value_text, values_of
from rmt_rl.analysis.figures import (
    Style,
    finish,
    in_default_style,
    literal,
    new_figure,
    picture_format,
    save_figure,
    styles,
)
from rmt_rl.analysis.panels import (
    CURVES,
    EvaluationPanel,
    LearningPanel,
    bars_of,
    draw_band,
    evaluation_panel,
    learning_panels,
    life_panel,
)
from rmt_rl.analysis.plot_many import draw_many
from rmt_rl.analysis.run_records import is_number
from rmt_rl.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Literal["learning", "evaluation", "lives"]
PANELS: tuple[Panel, ...] = get_args(Panel)
Looks: TypeAlias = dict[str, Style]
"""Styles by label."""

MOST_LINES = 6  # of a panel; more cover one another
LOG_SPAN = 20  # values whose ratio is larger are drawn on a logarithmic axis
MOST_BARS = 1000  # of intervals beside each other; more are drawn as a band, since they touch
MANY_POINTS = 25  # a curve with more has no markers
CHARACTER = 0.018  # width of a tick label's character, as a share of the axis


def plot(runs: Sequence[Path], out: Path, panels: Sequence[Panel] = PANELS) -> Path:
    """Draw learning curves and, where runs were evaluated, success against the varied option; return `out`.

    Of lives, also draw the return against the episode of the life.

    Args:
        runs: folders of training runs; those whose configs differ only in their seeds form a group.
        out: the file to write, a .png or an .svg.
        panels: the panels to draw, if the runs have the data.

    Raises:
        UsageError: a folder holds no run, no run has anything to draw, or `out` can't be written.
    """
    return plot_groups(read_groups(runs), out, panels)


@in_default_style
def plot_groups(groups: Sequence[Group], out: Path, panels: Sequence[Panel]) -> Path:
    """Draw the picture of `plot` for groups of runs.

    Raises:
        UsageError: no run has anything to draw, or `out` can't be written.
    """
    picture_format(out)  # raises an error before anything is drawn
    curves = learning_panels(groups) if "learning" in panels else []
    evaluation = evaluation_panel(groups) if "evaluation" in panels else None
    lives = life_panel(groups) if "lives" in panels else None
    evaluations = [each for each in (evaluation, lives) if each is not None]
    count = len(curves) + len(evaluations)
    if count == 0:
        raise UsageError("these runs have no evaluation to draw; evaluate one with `rmt-rl evaluate RUN --vary ...`")
    if len(groups) > MOST_LINES or any(len(each.cells) > MOST_LINES for each in evaluations):
        save_figure(draw_many(groups, curves, evaluations), out, dpi=160)
        return out
    width = 1 + 4.6 * count
    figure = new_figure(width, 4.4)
    (row,) = figure.subplots(1, count, squeeze=False)
    axes = list(row)
    looks = _looks(groups, evaluations)
    for panel, learning in zip(axes, curves, strict=False):
        _draw_learning(panel, learning, looks)
    for panel, scores in zip(axes[len(curves) :], evaluations, strict=True):
        _draw_evaluation(panel, scores, looks)
    _draw_legend(figure, axes, groups)
    save_figure(figure, out, dpi=160)
    return out


def _looks(groups: Iterable[Group], evaluations: Iterable[EvaluationPanel]) -> Looks:
    """Return a style for each label, the same in all panels."""
    labels = [group.label for group in groups]
    for evaluation in evaluations:
        labels += evaluation.cells
    return styles(dict.fromkeys(labels))


# Learning curves


def _draw_learning(axes: Axes, panel: LearningPanel, looks: Looks) -> None:
    quantity = CURVES[panel.metric]
    for group in panel.groups:
        curve = metric_curve(group, panel.metric)
        look = looks[group.label]
        axes.plot(
            list(curve),
            [estimate.mean for estimate in curve.values()],
            color=look.color,
            linestyle=look.linestyle,
            marker="" if len(curve) > MANY_POINTS else look.marker,
            markersize=5,
            markeredgecolor="white",
            label=group.label,
        )
        draw_band(axes, curve, quantity, look.color)
    _finish(axes, "During training", panel.unit, quantity)


# Evaluations by the varied option


def _draw_evaluation(axes: Axes, panel: EvaluationPanel, looks: Looks) -> None:
    quantity = SCORE_NAMES[panel.score]
    across = Axis.of(values_of(panel.cells))
    rows = len(panel.cells)
    apart = min(0.012, 0.08 / rows)  # so that bars of equal results lie side by side, near their tick
    middle = (rows - 1) / 2
    for index, label in enumerate(panel.cells):
        shift = apart * (index - middle)
        row = panel.cells[label]
        estimates = {across.shifted(value, shift): estimate for value, estimate in row.items()}
        _draw_row(axes, estimates, quantity, looks[label], label)
    if across.logarithmic:
        axes.set_xscale("log")
    axes.minorticks_off()
    ticks = across.ticks()
    axes.set_xticks(list(ticks.values()), list(map(literal, ticks)), fontsize=8)
    option = panel.option.replace("_", " ")
    _finish(axes, "After training", option, quantity)


def _draw_row(
    axes: Axes,
    estimates: Mapping[float, Estimate],
    quantity: str,
    look: Style,
    label: str,
) -> None:
    """Draw the estimates of one label by their places, each with its interval as a bar."""
    axes.plot(
        list(estimates),
        [estimate.mean for estimate in estimates.values()],
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=7,
        markeredgecolor="white",
        label=label,
        clip_on=False,
    )
    bars = bars_of(estimates, quantity)
    if len(estimates) > MOST_BARS:
        axes.fill_between(bars.places, bars.lows, bars.highs, color=look.color, alpha=0.15, linewidth=0)
    else:
        axes.vlines(bars.places, bars.lows, bars.highs, color=look.color, linewidth=1.5, alpha=0.7)


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of a varied option: each value's place, in order."""

    places: Mapping[Value, float]
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[Value]) -> Axis:
        """Place numbers by size, and other values at 0, 1, 2, ..."""
        if not all(map(is_number, values)):
            places = {value: float(index) for index, value in enumerate(values)}
            return cls(places, logarithmic=False)
        places = {value: float(value) for value in values}
        first = places[values[0]]
        last = places[values[-1]]
        logarithmic = first > 0 and last / first > LOG_SPAN
        return cls(places, logarithmic)

    def shifted(self, value: Value, share: float) -> float:
        """Return the place of a value, moved by a share of the axis."""
        place = self.places[value]
        low, high = self._ends
        if self.logarithmic:
            return float(place * (high / low) ** share)
        return place + (high - low) * share

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The least and the largest place."""
        places = self.places.values()
        return min(places), max(places)

    def ticks(self) -> dict[str, float]:
        """Choose the labels that have room: the last, and from the left all that touch no other."""
        places = {value_text(value): place for value, place in self.places.items()}
        scale = log10 if self.logarithmic else float
        marks = {label: scale(place) for label, place in places.items()}
        last = max(marks, key=marks.__getitem__)
        span = marks[last] - min(marks.values())

        def touch(one: str, other: str) -> bool:
            characters = len(one) + len(other)
            room = CHARACTER * span * characters / 2
            return abs(marks[one] - marks[other]) <= room

        kept: list[str] = []
        for label in marks:
            neighbours = chain(reversed(kept), (last,))  # the nearest first
            if label != last and not any(touch(label, other) for other in neighbours):
                kept.append(label)
        return {label: places[label] for label in (*kept, last)}


# Both


def _finish(axes: Axes, title: str, across: str, quantity: str) -> None:
    if quantity == "success rate":
        axes.set_ylim(0, 1.05)
    finish(axes, title, across, quantity)


def _draw_legend(figure: Figure, panels: Iterable[Axes], groups: Iterable[Group]) -> None:
    """Put one legend for all panels below them, where it covers nothing."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for line in axes.get_lines():
            handles.setdefault(str(line.get_label()), line)
    seeds = {group.label: f" (n = {len(group.runs)})" for group in groups}
    labels = [literal(label + seeds.get(label, "")) for label in handles]
    longest = max(map(len, labels))
    width = 0.8 + 0.08 * longest  # inches, the line sample included
    fitting = int(figure.get_figwidth() / width)
    columns = max(1, min(len(labels), fitting))
    lines = ceil(len(labels) / columns)
    figure.set_figheight(4.2 + 0.22 * lines)
    figure.legend(
        list(handles.values()),
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=INTERVALS_OVER,
        title_fontsize=9,
    )
