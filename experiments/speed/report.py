"""The tables of `rate.md`, from the results of `rate.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.speed.sizes import SIZES, Aims
from rmt_rl.analysis.markdown import markdown_table

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
AIMS = Aims()


def report(machine: Mapping[str, str], results: Results) -> str:
    """Markdown: machine, speeds against the official code, acting late in an episode, the floor, the profiles."""
    parts = [
        "<!-- Written by `python -m experiments.speed.rate`. -->\n",
        "Measured on " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ". "
        "Median (lowest to highest of n repeats), float32, CPU time of one thread.\n",
        "## Beside the official code\n",
        markdown_table(
            ["size", "measure", "ours", "official code", "ratio", "aim", "met"], _comparison(results), left=2
        ),
        "\n## Acting late in an episode\n",
        markdown_table(["size", "step", "ms a step, one lane"], _late(results)),
        "\n## The floor\n",
        markdown_table(
            ["size", "kFLOP a step", "attention", "GFLOP/s, 1024²", "GFLOP/s, its products", "steps / s", "reached"],
            _floor(results),
        ),
        "\n## Where the time goes\n",
        markdown_table(["size", "", "share of the time", "operator calls", "ms, profiled"], _profiles(results), left=2),
    ]
    return "\n".join(parts) + "\n"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (lowest to highest, n)`."""
    one = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return f"{one} (n = 1)"
    return f"{one} ({min(values):,.{digits}f} to {max(values):,.{digits}f}, n = {len(values)})"


def _comparison(results: Results) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        anchors = SIZES[name].anchors
        for measure in ("training", "training, memory replay"):
            yield _training_row(name, measure, found[measure])
        yield _speed_row(name, "acting, 1 lane", found, anchors.acting_1, AIMS.acting_1)
        for measure in ("acting, 100 lanes in lock-step", "acting, 100 lanes at mixed places"):
            yield _speed_row(name, measure, found, anchors.acting_100, AIMS.acting_100)
        for measure in ("training", "training, memory replay"):
            yield _memory_row(name, measure, found[measure])


def _training_row(size: str, measure: str, result: Mapping[str, Any]) -> Sequence[str]:
    speeds, padded = result["steps_per_second"], SIZES[size].anchors.training
    real = padded * result["real_share"]
    ratio = median(speeds) / real
    return [
        size,
        f"{measure}, real steps / s",
        spread(speeds),
        f"{real:,.0f} real ({padded:,.0f} with padding)",
        f"**{ratio:.1f}** a real step ({median(speeds) / padded:.1f} by its own count)",
        f"≥ {AIMS.training:g}",
        _met(ratio >= AIMS.training),
    ]


def _speed_row(
    size: str, measure: str, found: Mapping[str, Mapping[str, Any]], official: float, aim: float
) -> Sequence[str]:
    speeds = found[measure]["steps_per_second"]
    ratio = median(speeds) / official
    digits = f"**{ratio:.1f}**"
    return [size, f"{measure}, steps / s", spread(speeds), f"{official:,.0f}", digits, f"≥ {aim:g}", _met(ratio >= aim)]


def _memory_row(size: str, measure: str, result: Mapping[str, Any]) -> Sequence[str]:
    peak, official = result["peak_mb"] / 1000, SIZES[size].anchors.peak_gb
    ours = f"{peak:.2f}, of it {result['imported_mb'] / 1000:.2f} imports"
    ratio = peak / official
    met = _met(ratio <= AIMS.peak)
    return [size, f"{measure}, peak GB", ours, f"{official:.2f}", f"**{ratio:.2f}**", f"≤ {AIMS.peak:g}", met]


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


def _in_depth(results: Results) -> list[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    return [(name, found) for name, found in results.items() if SIZES[name].in_depth]


def _late(results: Results) -> Iterator[Sequence[str]]:
    for name, found in _in_depth(results):
        for step, milliseconds in found["late"]["milliseconds_per_step"].items():
            yield [name, f"{int(step):,}", spread(milliseconds, 3)]


def _floor(results: Results) -> Iterator[Sequence[str]]:
    for name, found in _in_depth(results):
        floor = found["floor"]
        fastest = floor["square_flops_per_second"] / floor["flops_per_step"]
        yield [
            name,
            f"{floor['flops_per_step'] / 1e3:,.0f}",
            f"{floor['attention_flops_per_step'] / floor['flops_per_step']:.0%}",
            f"{floor['square_flops_per_second'] / 1e9:.0f}",
            f"{floor['layer_flops_per_second'] / 1e9:.0f}",
            f"{fastest:,.0f}",
            f"{median(found['training']['steps_per_second']) / fastest:.0%}",
        ]


def _profiles(results: Results) -> Iterator[Sequence[str]]:
    for name, found in _in_depth(results):
        for measure, unit in (("training", "an update"), ("acting, 1 lane", "a step"), ("acting, 100 lanes", "a step")):
            result = found[f"profile, {measure}"]
            ordered = sorted(result["shares"].items(), key=lambda item: -item[1])
            shares = ", ".join(f"{kind} {share:.0%}" for kind, share in ordered if share >= 0.005)
            yield [name, measure, shares, f"{result['calls']:,.0f} {unit}", f"{result['milliseconds']:,.1f} {unit}"]
