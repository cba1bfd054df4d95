"""The tables of `peers.md`, from the results of `peers.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.speed.report import spread
from rmt_rl.analysis.markdown import markdown_table

Results = Mapping[str, Mapping[str, Any]]


def report(machine: Mapping[str, str], results: Results) -> str:
    """Markdown: machine, sizes, training with its memory, forward passes, token by token."""
    times, megabytes = "theirs / ours (CPU time)", "theirs / ours (memory)"
    parts = [
        "<!-- Written by `python -m experiments.speed.peers`. -->\n",
        "Measured on " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ". "
        "Median (lowest to highest of n repeats), float32, CPU time of one thread. Above 1, ours is the better.\n",
        "## Parameters\n",
        markdown_table(["memory", "ours", "theirs", "ours / theirs"], _parameters(results)),
        "\n## A training step\n",
        markdown_table(
            ["memory", "segments", "gradient", "ours, s", "theirs, s", times, "ours, MB", "theirs, MB", megabytes],
            _training(results),
            left=3,
        ),
        "\n## Forward\n",
        markdown_table(["memory", "ours, tokens / s", "theirs, tokens / s", times], _forward(results)),
        "\n## Token by token\n",
        markdown_table(["memory", "way", "ms a token", "times our step"], _generation(results), left=2),
    ]
    return "\n".join(parts) + "\n"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Repeat by repeat, since the two were measured in turns."""
    return [one / other for one, other in zip(above, below, strict=True)]


def _parameters(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        ours, theirs = found["parameters"]["ours"], found["parameters"]["theirs"]
        yield [name, f"{ours:,}", f"{theirs:,}", f"{ours / theirs:.2f}"]


def _training(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        for segments, seconds in found["training"].items():
            for gradient in ("full", "replay"):
                yield [name, str(segments), *_training_cells(gradient, seconds, found["peak_mb"][segments])]


def _training_cells(
    gradient: str, seconds: Mapping[str, Sequence[float]], peaks: Mapping[str, float | None]
) -> Sequence[str]:
    """Replay is held against their full gradient where they have no replay."""
    ours, theirs = f"ours, {gradient}", f"theirs, {gradient}"
    label = gradient
    if theirs not in peaks:
        theirs, label = "theirs, full", f"{gradient}, theirs full"
    ratio = ratios(seconds[theirs], seconds[ours]) if ours in seconds and theirs in seconds else []
    return [
        label,
        _seconds(seconds.get(ours)),
        _seconds(seconds.get(theirs)),
        f"**{spread(ratio, 2)}**" if ratio else "",
        _megabytes(peaks[ours]),
        _megabytes(peaks[theirs]),
        _quotient(peaks[theirs], peaks[ours]),
    ]


def _seconds(values: Sequence[float] | None) -> str:
    return "" if values is None else f"{median(values):.3f}"


def _megabytes(value: float | None) -> str:
    return "too much to run" if value is None else f"{value:,.0f}"


def _quotient(above: float | None, below: float | None) -> str:
    return "" if above is None or below is None else f"**{above / below:.2f}**"


def _forward(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        ours, theirs = found["forward"]["ours"], found["forward"]["theirs"]
        speeds = [f"{found['tokens'] / median(seconds):,.0f}" for seconds in (ours, theirs)]
        yield [name, *speeds, f"**{spread(ratios(theirs, ours), 2)}**"]


def _generation(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        ways = found.get("generation", {})
        for way, seconds in ways.items():
            times = "" if way == "ours, step" else f"**{spread(ratios(seconds, ways['ours, step']), 1)}**"
            yield [name, way, f"{1e3 * median(seconds):.2f}", times]
