"""The table and the pictures, from `results.json` alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.lines import Line2D

from experiments.long_context import evaluate
from experiments.long_context.options import Run, read_run
from experiments.long_context.tasks import CHANCE, STORIES
from rmt_rl.analysis.figures import DASHES, Style, finish, in_default_style, new_figure, save_figure, styles
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.files import write_atomically
from rmt_rl.statistics import success_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
MEMORIES = {
    "valve": "memory tokens with RATE's valve",
    "tokens": "memory tokens (RMT)",
    "gate": "memory tokens with a gate",
    "hard-gate": "memory tokens with a gate that shuts",
    "mac": "Titans MAC",
    "mag": "Titans MAG",
    "mal": "Titans MAL",
    "armt": "ARMT",
    "none": "full attention, no memory",
}
FEEDS = {"streams": "curriculum, then streams", "curriculum": "curriculum", "full": "full length at once"}
SHOWN = (1, 4, 16, 64, 256, 1024, 4096)  # segments that have a column


def row(folder: Path) -> Row:
    """Return the row of `results.json` of a run that was evaluated."""
    run = read_run(folder)
    record = json.loads((folder / evaluate.FILE).read_text(encoding="utf-8"))
    return {
        "run": folder.name,
        "options": run.options.model_dump(mode="json"),
        "trained_tokens": run.progress.tokens,
        "trained_cpu_seconds": round(run.progress.cpu_seconds, 1),
        "before": _before(run),
        "parameters": sum(tensor.numel() for tensor in run.checkpoint.group("model").values()),
        "evaluation_seed": record["seed"],
        "results": record["results"],
    }


def _before(run: Run) -> dict[str, float]:
    """Return tokens and CPU seconds of the trainings that made the weights a run began with."""
    if run.options.start is None:
        return {"tokens": 0, "cpu_seconds": 0.0}
    source = read_run(Path(run.options.start))
    earlier = _before(source)
    return {
        "tokens": round(source.progress.tokens + earlier["tokens"], 1),
        "cpu_seconds": round(source.progress.cpu_seconds + earlier["cpu_seconds"], 1),
    }


def write_results(rows: Sequence[Row], folder: Path) -> str:
    """Write `table.md`, `accuracy.svg` and `feeds.svg` into a folder; return the table."""
    text = table(rows)
    write_atomically(folder / "table.md", (text + "\n").encode())
    by_segment = sorted(filter(_preferred, rows), key=_segment)
    longest = {_setting(one): one for one in by_segment}
    draw(list(longest.values()), _memory_label, folder / "accuracy.svg")
    begun_anew = [one for one in rows if one["options"]["start"] is None]  # all have the same budget
    compared = {_setting(one) for one in begun_anew if not _preferred(one)}
    feeds = [one for one in begun_anew if _setting(one) in compared]
    draw(feeds, _feed_label, folder / "feeds.svg")
    return text


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table, one row a run: accuracy with Wilson's 95% interval by segments, then speed and memory.

    Speed and memory are of the first and the last length that were run with as many sequences at once.
    """
    head = ["task", "memory", "trained by", "segment", "seed", *(f"{length:,}" for length in SHOWN)]
    head += ["µs a token, first / last", "MB, first / last", "M tokens of training", "CPU s of it"]
    return markdown_table(head, [_line(one) for one in rows], left=3)


def _line(one: Row) -> list[str]:
    options, results = one["options"], one["results"]
    by_length = {result["segments"]: result for result in results}
    ends = [_settled(results)[0], results[-1]]
    speeds = [f"{1e6 * result['cpu_seconds'] / result['tokens']:.1f}" for result in ends]
    memory = [f"{result['resident_mb']:.0f}" for result in ends]
    cpu_seconds = one["before"]["cpu_seconds"] + one["trained_cpu_seconds"]
    return [
        options["task"],
        _memory_label(one),
        _feed_label(one) + (f", from {Path(options['start']).name}" if options["start"] else ""),
        str(options["segment"]),
        str(options["seed"]),
        *(_accuracy(by_length.get(length)) for length in SHOWN),
        " / ".join(speeds),
        " / ".join(memory),
        f"{_tokens(one) / 1e6:.0f}",
        f"{cpu_seconds:,.0f}",
    ]


@in_default_style
def draw(rows: Sequence[Row], label: Callable[[Row], str], out: Path) -> None:
    """Draw one panel a task, a line a run: accuracy over the number of tokens read.

    Runs of a label have one colour, those of a segment length one kind of line, the longest a solid line.
    """
    styled = styles(dict.fromkeys(map(label, rows)))
    lengths = sorted(set(map(_segment, rows)), reverse=True)
    dashes = dict(zip(lengths, cycle(DASHES), strict=False))
    tasks = [task for task in STORIES if any(one["options"]["task"] == task for one in rows)]
    if not tasks:
        return
    figure = new_figure(1 + 4.2 * len(tasks), 4.4)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for one in rows:
            if one["options"]["task"] == task:
                style = styled[label(one)]
                _draw_line(axes, one, style._replace(linestyle=dashes[_segment(one)]))
        _finish(axes, task)
    handles = _handles(styled, dashes)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(3, len(handles)),
        frameon=False,
        title="share of right answers with 95% intervals over fresh sequences; a line a seed; dotted: guessing",
        title_fontsize=9,
    )
    with matplotlib.rc_context({"svg.hashsalt": "long_context"}):  # the same bytes from the same results
        save_figure(figure, out, metadata={"Date": None})


def _handles(styled: Mapping[str, Style], dashes: Mapping[int, Any]) -> dict[str, Line2D]:
    """Return the legend's lines: one a label, and one a segment length if there are several."""
    handles = {
        name: Line2D([], [], color=style.color, marker=style.marker, markeredgecolor="white")
        for name, style in styled.items()
    }
    if len(dashes) > 1:
        for length, dash in dashes.items():
            handles[f"segments of {length}"] = Line2D([], [], color="grey", linestyle=dash)
    return handles


def _draw_line(axes: Axes, one: Row, style: Style) -> None:
    results = one["results"]
    tokens = [result["segments"] * one["options"]["segment"] for result in results]
    rates = [result["right"] / result["sequences"] for result in results]
    axes.plot(
        tokens,
        rates,
        color=style.color,
        linestyle=style.linestyle,
        marker=style.marker,
        markersize=5,
        markeredgecolor="white",
        clip_on=False,
    )
    intervals = [success_interval(result["right"], result["sequences"]) for result in results]
    lows, highs = [low for low, _ in intervals], [high for _, high in intervals]
    axes.fill_between(tokens, lows, highs, color=style.color, alpha=0.12, linewidth=0)


def _finish(axes: Axes, task: str) -> None:
    axes.axhline(CHANCE, color="grey", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.05)
    finish(axes, task, "tokens", "accuracy")


def _accuracy(result: Row | None) -> str:
    """Return a cell of the table; an empty one for a length that wasn't tested."""
    if result is None:
        return ""
    right, sequences = result["right"], result["sequences"]
    return f"{right / sequences:.2f}" + bracketed(success_interval(right, sequences))


def _settled(results: Sequence[Row]) -> Sequence[Row]:
    """Return the results with as many sequences as the last; if some took long enough to be timed, these alone."""
    alike = [result for result in results if result["sequences"] == results[-1]["sequences"]]
    return [result for result in alike if result["cpu_seconds"] >= 0.5] or alike


def _memory_label(one: Row) -> str:
    return MEMORIES[one["options"]["memory"]]


def _feed_label(one: Row) -> str:
    return FEEDS[one["options"]["feed"]]


def _tokens(one: Row) -> int:
    """Return the tokens of all its training, including the trainings that made the weights it began with."""
    return int(one["before"]["tokens"] + one["trained_tokens"])


def _preferred(one: Row) -> bool:
    """Return whether a run is trained by the feed that its memory does best with."""
    feed = "curriculum" if one["options"]["memory"] == "none" else "streams"
    return bool(one["options"]["feed"] == feed)


def _setting(one: Row) -> tuple[Any, ...]:
    """Return what is the same in runs that differ in their training alone."""
    options = one["options"]
    return options["task"], options["memory"], options["segment"], options["seed"]


def _segment(one: Row) -> int:
    return int(one["options"]["segment"])
