"""Plotly's figures of learning curves and scores, as the JSON that plotly.js reads.

Colours of text, axes and paper come from the page, which has a light and a dark look.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

from rmt_rl.analysis.aggregate import Estimate, Group, metric_curve
from rmt_rl.analysis.comparison import SCORE_NAMES, value_text, values_of
from rmt_rl.analysis.figures import COLOUR_MAP, COLOURS, DASHES, MOST_CHARACTERS
from rmt_rl.analysis.panels import CURVES, EvaluationPanel, bars_of, within
from rmt_rl.analysis.plot import LOG_SPAN, MOST_LINES
from rmt_rl.analysis.run_records import is_number

Json = dict[str, Any]
HIDDEN_METRICS = ("time/", "data/")
MOST_TICKS = 12  # of an axis, and columns of cells that hold their number
MOST_POINTS = 400  # of a curve
GREY = "#999999"  # seen on light and dark paper
PLOTLY_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
PALETTE = tuple(GREY if colour == "#000000" else colour for colour in COLOURS)
LINE = 38  # characters of a line of a label


def chart_text(text: str, line: int = LINE) -> str:
    """Return a text that may come from a file as plotly.js draws it: no markup has an effect, and lines are short."""
    short = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
    lines = textwrap.wrap(short, line) or [""]
    return "<br>".join(escape(each, quote=False) for each in lines)


def metrics_of(groups: Iterable[Group]) -> list[str]:
    """Return the metrics that any run logged: evaluations first, without times."""
    found: dict[str, None] = {}
    for group in groups:
        for run in group.runs:
            found |= dict.fromkeys(run.metrics)
    shown = [name for name in found if not name.startswith(HIDDEN_METRICS)]
    first = [name for name in CURVES if name in shown]
    return [*first, *sorted(set(shown) - set(first))]


def learning_figures(groups: Sequence[Group], metric: str) -> list[Json]:
    """Return the learning curves by one metric: one figure, or one for each group if there are many."""
    logged = [group for group in groups if group.has(metric)]
    curves = {group.label: _thinned(metric_curve(group, metric)) for group in logged}
    quantity = CURVES.get(metric, metric)
    units = sorted({group.unit for group in logged})
    unit = " or ".join(units)
    if len(curves) <= MOST_LINES:
        traces: list[Json] = []
        for (label, curve), colour, dash in zip(curves.items(), cycle(PALETTE), cycle(DASHES), strict=False):
            traces += _curve(label, curve, quantity, colour, dash)
        return [_figure(traces, unit, quantity, legend=True)]
    return [_small_figure(label, curves, unit, quantity) for label in curves]


def _thinned(curve: Mapping[int, Estimate]) -> dict[int, Estimate]:
    step = max(1, -(-len(curve) // MOST_POINTS))
    places = list(curve)
    kept = places[::step]
    return {place: curve[place] for place in dict.fromkeys([*kept, *places[-1:]])}


def _curve(label: str, curve: Mapping[int, Estimate], quantity: str, colour: str, dash: str) -> list[Json]:
    """Return the traces of a curve and of the band of its intervals."""
    bars = bars_of(curve, quantity)
    name = chart_text(label)
    band: Json = {
        "x": [*bars.places, *reversed(bars.places)],
        "y": [*bars.highs, *reversed(bars.lows)],
        "type": "scatter",
        "mode": "none",
        "fill": "toself",
        "fillcolor": f"{colour}30",
        "hoverinfo": "skip",
        "name": name,
        "legend": False,
    }
    line = _line(list(curve), [estimate.mean for estimate in curve.values()], colour, dash)
    line |= {"name": name, "customdata": [_interval(each) for each in curve.values()]}
    return [band, line] if bars.places else [line]


def _line(x: list[Any], y: list[float], colour: str, dash: str) -> Json:
    return {
        "x": x,
        "y": y,
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 30 else "lines",
        "line": {"color": colour, "dash": PLOTLY_DASHES[dash], "width": 2},
        "marker": {"size": 6},
        "hovertemplate": "%{y:.3~g}%{customdata}",
    }


def _interval(estimate: Estimate) -> str:
    """Return the words behind a mean."""
    seeds = "1 seed" if estimate.count == 1 else f"{estimate.count} seeds"
    if estimate.interval is None:
        return f" ({seeds})"
    low, high = estimate.interval
    return f" [{low:.3g}, {high:.3g}] ({seeds})"


def _small_figure(label: str, curves: Mapping[str, Mapping[int, Estimate]], unit: str, quantity: str) -> Json:
    """Return a group's curve before those of all others in grey."""
    traces: list[Json] = []
    for other, curve in curves.items():
        if other != label:
            grey = _line(list(curve), [estimate.mean for estimate in curve.values()], f"{GREY}66", "-")
            traces.append(grey | {"mode": "lines", "hoverinfo": "skip", "hovertemplate": None})
    traces += _curve(label, curves[label], quantity, PALETTE[0], "-")
    figure = _figure(traces, unit, quantity, legend=False)
    figure["layout"]["title"] = {"text": chart_text(label, 30), "font": {"size": 13}}
    figure["small"] = True
    return figure


def _figure(traces: list[Json], across: str, quantity: str, legend: bool) -> Json:
    layout: Json = {
        "xaxis": {"title": {"text": chart_text(across)}},
        "yaxis": {"title": {"text": chart_text(quantity)}},
        "hovermode": "x unified" if legend else "closest",
    }
    if quantity == "success rate":
        layout["yaxis"]["range"] = [-0.03, 1.05]
    return {"data": traces, "layout": layout, "legend": legend}


# Scores by the varied option


def score_figure(panel: EvaluationPanel) -> Json:
    """Return scores by the value of the varied option: lines with intervals, or a heat map if there are many."""
    option = panel.option.replace("_", " ")
    quantity = SCORE_NAMES[panel.score]
    if len(panel.cells) > MOST_LINES:
        return _heat_map(panel, option, quantity)
    values = values_of(panel.cells)
    traces = []
    for (label, row), colour, dash in zip(panel.cells.items(), cycle(PALETTE), cycle(DASHES), strict=False):
        x = [value if is_number(value) else chart_text(str(value)) for value in row]
        trace = _line(x, [estimate.mean for estimate in row.values()], colour, dash)
        words = [_interval(estimate) for estimate in row.values()]
        bars = _error_bars(list(row.values()), quantity)
        traces.append(trace | {"name": chart_text(label), "customdata": words, "error_y": bars})
    figure = _figure(traces, option, quantity, legend=True)
    figure["layout"]["xaxis"] |= _axis(values)
    return figure


def _error_bars(row: Sequence[Estimate], quantity: str) -> Json:
    above, below = [], []
    for estimate in row:
        low, high = within(estimate.interval or (estimate.mean, estimate.mean), quantity)
        above.append(max(0.0, high - estimate.mean))
        below.append(max(0.0, estimate.mean - low))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2, "width": 3}


def _axis(values: Sequence[Any]) -> Json:
    """Return the axis of the varied option, logarithmic if its numbers lie far apart."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values):
        return {"type": "category"}
    is_wide = numbers[0] > 0 and numbers[-1] / numbers[0] > LOG_SPAN
    axis: Json = {"type": "log" if is_wide else "linear"}
    if len(values) <= MOST_TICKS:
        axis |= {"tickvals": list(values), "ticktext": [value_text(value) for value in values]}
    return axis


def _heat_map(panel: EvaluationPanel, option: str, quantity: str) -> Json:
    values = values_of(panel.cells)
    means: list[list[float | None]] = []
    texts: list[list[str]] = []
    words: list[list[str]] = []
    for row in panel.cells.values():
        estimates = [row.get(value) for value in values]
        means.append([estimate.mean if estimate else None for estimate in estimates])
        texts.append([f"{estimate.mean:.2f}" if estimate else "" for estimate in estimates])
        words.append([_interval(estimate) if estimate else "" for estimate in estimates])
    trace: Json = {
        "type": "heatmap",
        "z": means,
        "x": [chart_text(value_text(value)) for value in values],
        "y": [chart_text(label, 24) for label in panel.cells],
        "text": texts,
        "customdata": words,
        "texttemplate": "%{text}" if len(values) <= MOST_TICKS else "",
        "hovertemplate": "%{y}, %{x}: %{z:.3~g}%{customdata}<extra></extra>",
        "colorscale": COLOUR_MAP.capitalize(),
        "showscale": len(values) > MOST_TICKS,
        "xgap": 1,
        "ygap": 2,
    }
    if quantity == "success rate":
        trace |= {"zmin": 0, "zmax": 1}
    layout: Json = {
        "xaxis": {"title": {"text": chart_text(f"{option}: {quantity}")}, "type": "category"},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return {"data": [trace], "layout": layout, "rows": len(panel.cells)}
