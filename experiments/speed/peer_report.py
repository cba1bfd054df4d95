"""The tables of `peers.md`, from the results of `peers.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.speed.report import described, spread
from rmt_rl.analysis.markdown import markdown_table

Results = Mapping[str, Mapping[str, Any]]
"""Results by pair, then by measure."""
TIMES, MEMORY = "theirs / ours (CPU time)", "theirs / ours (memory)"
OUR_STEP = "ours, step"
PARAMETERS = ["memory", "ours", "theirs", "ours / theirs"]
TRAINING = ["memory", "segments", "gradient", "ours, s", "theirs, s", TIMES, "ours, MB", "theirs, MB", MEMORY]
FORWARD = ["memory", "ours, tokens / s", "theirs, tokens / s", TIMES]
GENERATION = ["memory", "way", "ms a token", "times our step"]


def peers_report(machine: Mapping[str, str], results: Results) -> str:
    """Return Markdown: machine, sizes, training with its memory, forward passes, token by token."""
    parts = [
        "<!-- Written by `python -m experiments.speed.peers`. -->\n",
        f"Measured on {described(machine)}. "
        "Median (lowest to highest of n repeats), float32, CPU time of one thread. Above 1, ours is the better.\n",
        "## Parameters\n",
        markdown_table(PARAMETERS, _parameters(results)),
        "\n## A training step\n",
        markdown_table(TRAINING, _training(results), left=3),
        "\n## Forward\n",
        markdown_table(FORWARD, _forward(results)),
        "\n## Token by token\n",
        markdown_table(GENERATION, _generation(results), left=2),
    ]
    return "\n".join(parts) + "\n"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return ratios repeat by repeat, since the two were measured in turns."""
    return [one / other for one, other in zip(above, below, strict=True)]


def _bold(text: str) -> str:
    return f"**{text}**"


def _parameters(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        ours, theirs = found["parameters"]["ours"], found["parameters"]["theirs"]
        yield [name, f"{ours:,}", f"{theirs:,}", f"{ours / theirs:.2f}"]


def _training(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        for segments, seconds in found["training"].items():
            peaks = found["peak_mb"][segments]
            for gradient in ("full", "replay"):
                yield [name, str(segments), *_training_cells(gradient, seconds, peaks)]


def _training_cells(
    gradient: str,
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, float | None],
) -> Sequence[str]:
    """Return the cells of one gradient; replay stands beside their full gradient where they have no replay."""
    ours, theirs, label = f"ours, {gradient}", f"theirs, {gradient}", gradient
    if theirs not in peaks:
        theirs, label = "theirs, full", f"{gradient}, theirs full"
    times = ""
    if ours in seconds and theirs in seconds:
        times = _bold(spread(ratios(seconds[theirs], seconds[ours]), 2))
    return [
        label,
        _seconds(seconds.get(ours)),
        _seconds(seconds.get(theirs)),
        times,
        _megabytes(peaks[ours]),
        _megabytes(peaks[theirs]),
        _quotient(peaks[theirs], peaks[ours]),
    ]


def _seconds(values: Sequence[float] | None) -> str:
    return "" if values is None else f"{median(values):.3f}"


def _megabytes(value: float | None) -> str:
    return "too much to run" if value is None else f"{value:,.0f}"


def _quotient(above: float | None, below: float | None) -> str:
    if above is None or below is None:
        return ""
    return _bold(f"{above / below:.2f}")


def _forward(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        tokens = found["tokens"]
        ours, theirs = found["forward"]["ours"], found["forward"]["theirs"]
        yield [
            name,
            f"{tokens / median(ours):,.0f}",
            f"{tokens / median(theirs):,.0f}",
            _bold(spread(ratios(theirs, ours), 2)),
        ]


def _generation(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        ways = found.get("generation", {})
        for way, seconds in ways.items():
            times = ""
            if way != OUR_STEP:
                times = _bold(spread(ratios(seconds, ways[OUR_STEP]), 1))
            yield [name, way, f"{1e3 * median(seconds):.2f}", times]
