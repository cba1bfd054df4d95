"""Panels of pictures of runs: the curves and scores that there are to draw, and their intervals."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rmt_rl.analysis.aggregate import (
    Cells,
    Estimate,
    Group,
    compared_score,
    evaluation_cells,
    life_cells,
    varied_option,
)
from rmt_rl.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = {"eval/success_rate": "success rate", "eval/mean_return": "mean return"}


@dataclass(frozen=True)
class LearningPanel:
    """Groups whose curves share a panel, since their runs are counted in the same unit."""

    metric: str
    unit: str
    groups: list[Group]


@dataclass(frozen=True)
class EvaluationPanel:
    """Scores by the value of the varied option."""

    option: str
    score: str
    cells: Cells


def learning_panels(groups: Sequence[Group]) -> list[LearningPanel]:
    """Return a panel for each unit, by the first metric that any group has."""
    metric = _logged_metric(groups)
    if metric is None:
        return []
    panels: dict[str, LearningPanel] = {}
    for group in groups:
        if group.has(metric):
            unit = group.unit
            panel = panels.setdefault(unit, LearningPanel(metric, unit, []))
            panel.groups.append(group)
        else:
            message = f"{group.label} logged no {CURVES[metric]}; it has no learning curve"
            warnings.warn(message, UserWarning, stacklevel=4)
    return list(panels.values())


def _logged_metric(groups: Iterable[Group]) -> str | None:
    for metric in CURVES:
        if any(group.has(metric) for group in groups):
            return metric
    return None


def evaluation_panel(groups: Sequence[Group]) -> EvaluationPanel | None:
    """Return the scores by the varied option; None if no option was varied."""
    option = varied_option(groups)
    if option is None:
        return None
    score = compared_score(groups, option)
    cells = evaluation_cells(groups, option, score)
    return EvaluationPanel(option, score, cells) if cells else None


def life_panel(groups: Sequence[Group]) -> EvaluationPanel | None:
    """Return mean returns by the episode of a life; None if no evaluation was of lives."""
    cells = life_cells(groups)
    return EvaluationPanel("episode of the life", "mean_return", cells) if cells else None


class Bars(NamedTuple):
    """Intervals, each at its place."""

    places: list[float]
    lows: list[float]
    highs: list[float]


def bars_of(estimates: Mapping[int, Estimate] | Mapping[float, Estimate], quantity: str) -> Bars:
    """Return the intervals of those estimates that have one."""
    bars = Bars([], [], [])
    for place, estimate in estimates.items():
        if estimate.interval:
            low, high = within(estimate.interval, quantity)
            bars.places.append(place)
            bars.lows.append(low)
            bars.highs.append(high)
    return bars


def within(interval: Interval, quantity: str) -> Interval:
    """Cut an interval of a rate at 0 and 1, beyond which Student's may reach."""
    if quantity != "success rate":
        return interval
    low, high = interval
    return max(0.0, low), min(1.0, high)


def draw_band(axes: Axes, curve: Mapping[int, Estimate], quantity: str, color: str) -> None:
    """Draw the intervals of a curve as a band."""
    bars = bars_of(curve, quantity)
    axes.fill_between(
        bars.places,
        bars.lows,
        bars.highs,
        color=color,
        alpha=0.15,
        linewidth=0,
    )
