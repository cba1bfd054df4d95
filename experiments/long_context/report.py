"""The table and the pictures, from `results.json` alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.lines import Line2D

from experiments.long_context import evaluate
from experiments.long_context.options import Saved, read_run
from experiments.long_context.tasks import CHANCE, STORIES
from rmt_rl.analysis.figures import DASHES, Style, finish, new_figure, save_figure, styles
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


def row(run: Path) -> Row:
    """All there is to tell of a run that was evaluated, as JSON."""
    saved = read_run(run)
    record = json.loads((run / evaluate.FILE).read_text())
    return {
        "run": run.name,
        "options": saved.options.model_dump(mode="json"),
        "trained_tokens": saved.progress["tokens"],
        "trained_cpu_seconds": round(saved.progress["cpu_seconds"], 1),
        "before": _before(saved),
        "parameters": sum(tensor.numel() for tensor in saved.group("model").values()),
        "evaluation_seed": record["seed"],
        "results": record["results"],
    }


def _before(saved: Saved) -> dict[str, float]:
    """Tokens and CPU seconds of the trainings that made the weights a run began with."""
    if saved.options.start is None:
        return {"tokens": 0, "cpu_seconds": 0.0}
    source = read_run(Path(saved.options.start))
    return {name: round(source.progress[name] + spent, 1) for name, spent in _before(source).items()}


def write_results(rows: Sequence[Row], folder: Path) -> str:
    """Write `table.md`, `accuracy.svg` and `feeds.svg` into a folder; returns the table."""
    text = table(rows)
    write_atomically(folder / "table.md", (text + "\n").encode())
    last = {_setting(one): one for one in sorted(filter(_preferred, rows), key=_segment)}
    memories = list(last.values())
    draw(memories, _memory_label, folder / "accuracy.svg")
    begun_anew = [one for one in rows if one["options"]["start"] is None]  # of one budget
    compared = {_setting(one) for one in begun_anew if not _preferred(one)}
    feeds = [one for one in begun_anew if _setting(one) in compared]
    draw(feeds, lambda one: FEEDS[one["options"]["feed"]], folder / "feeds.svg")
    return text


def table(rows: Iterable[Row]) -> str:
    """Markdown, one row a run: accuracy with Wilson's 95% interval by segments, then speed and memory.

    These are of the first and the last length that were run with as many sequences at once.
    """
    head = ["task", "memory", "trained by", "segment", "seed", *(f"{each:,}" for each in SHOWN)]
    head += ["µs a token, first / last", "MB, first / last", "M tokens of training", "CPU s of it"]
    lines = []
    for one in rows:
        options, results = one["options"], one["results"]
        by_length = {result["segments"]: result for result in results}
        ends = [_settled(results)[0], results[-1]]
        speeds = [f"{1e6 * result['cpu_seconds'] / result['tokens']:.1f}" for result in ends]
        lines.append(
            [
                options["task"],
                MEMORIES[options["memory"]],
                FEEDS[options["feed"]] + (f", from {Path(options['start']).name}" if options["start"] else ""),
                str(options["segment"]),
                str(options["seed"]),
                *(_cell(by_length[each]) if each in by_length else "" for each in SHOWN),
                " / ".join(speeds),
                " / ".join(f"{result['resident_mb']:.0f}" for result in ends),
                f"{_tokens(one) / 1e6:.0f}",
                f"{one['before']['cpu_seconds'] + one['trained_cpu_seconds']:,.0f}",
            ]
        )
    return markdown_table(head, lines, left=3)


def draw(rows: Sequence[Row], label: Callable[[Row], str], out: Path) -> None:
    """One panel a task, a line a run: accuracy over the number of tokens read.

    Runs of a label have one colour, those of a segment length one kind of line, the longest a whole one.
    """
    styled = styles(dict.fromkeys(map(label, rows)))
    dashes = dict(zip(sorted(set(map(_segment, rows)), reverse=True), cycle(DASHES), strict=False))
    tasks = [task for task in STORIES if any(one["options"]["task"] == task for one in rows)]
    if not tasks:
        return
    figure = new_figure(1 + 4.2 * len(tasks), 4.4)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for one in rows:
            if one["options"]["task"] == task:
                _draw_line(axes, one, styled[label(one)]._replace(linestyle=dashes[_segment(one)]))
        _finish(axes, task)
    handles = {
        name: Line2D([], [], color=style.color, marker=style.marker, markeredgecolor="white")
        for name, style in styled.items()
    }
    if len(dashes) > 1:
        for length, dash in dashes.items():
            handles[f"segments of {length}"] = Line2D([], [], color="grey", linestyle=dash)
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


def _cell(result: Row) -> str:
    right, sequences = result["right"], result["sequences"]
    return f"{right / sequences:.2f}" + bracketed(success_interval(right, sequences))


def _settled(results: Sequence[Row]) -> Sequence[Row]:
    """Those of as many sequences at once as the last, and if there are any, of a time that is long enough to tell."""
    alike = [result for result in results if result["sequences"] == results[-1]["sequences"]]
    return [result for result in alike if result["cpu_seconds"] >= 0.5] or alike


def _memory_label(one: Row) -> str:
    return MEMORIES[one["options"]["memory"]]


def _tokens(one: Row) -> int:
    """Of all its training, what made the weights it began with included."""
    return int(one["before"]["tokens"] + one["trained_tokens"])


def _preferred(one: Row) -> bool:
    """Whether a run is trained in the way that its memory does best by."""
    return bool(one["options"]["feed"] == ("curriculum" if one["options"]["memory"] == "none" else "streams"))


def _setting(one: Row) -> tuple[Any, ...]:
    """What runs are compared by that differ in their training alone."""
    return tuple(one["options"][name] for name in ("task", "memory", "segment", "seed"))


def _segment(one: Row) -> int:
    return int(one["options"]["segment"])
