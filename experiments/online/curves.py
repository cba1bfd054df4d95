"""Learning curves against environment steps, a line for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rmt_rl.analysis.figures import Style
from rmt_rl.analysis.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = "thousand steps"
"""Unit of the horizontal axis."""
_THOUSAND = 1000


def draw_seeds(axes: Axes, results: Mapping[str, Sequence[RunResult]], metric: str, looks: Mapping[str, Style]) -> None:
    """Draw the curves of a metric.

    Args:
        axes: the panel.
        results: the runs of each label.
        metric: e.g. eval/mean_return.
        looks: the style of each label.
    """
    for label, runs in results.items():
        look = looks[label]
        for index, run in enumerate(runs):
            curve = run.metrics[metric]
            steps = [step / _THOUSAND for step in curve]
            named = label if index == 0 else None
            axes.plot(steps, list(curve.values()), color=look.color, linestyle=look.linestyle, label=named)
