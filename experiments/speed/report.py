"""The tables of `rate.md`, from the results of `rate.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.speed.sizes import SIZES, Aims
from rmt_rl.analysis.markdown import markdown_table

Found = Mapping[str, Mapping[str, Any]]
"""Results of one size by measure, see `rate.cases`."""
AIMS = Aims()
TRAININGS = ("training", "training, memory replay")
ACTING_ALONE = "acting, 1 lane"
ACTING_TOGETHER = ("acting, 100 lanes in lock-step", "acting, 100 lanes at mixed places")
PROFILES = {"training": "an update", "acting, 1 lane": "a step", "acting, 100 lanes": "a step"}  # and their units
SMALLEST_SHARE = 0.005  # that is shown
COMPARISON = ["size", "measure", "ours", "official code", "ratio", "aim", "met"]
LATE = ["size", "step", "ms a step, one environment"]
FLOOR = ["size", "kFLOP a step", "attention", "GFLOP/s, 1024²", "GFLOP/s, its products", "steps / s", "reached"]
PROFILE = ["size", "", "share of the time", "operator calls", "ms, profiled"]


def rate_report(machine: Mapping[str, str], results: Mapping[str, Found]) -> str:
    """Return Markdown: machine, speeds against the official code, acting late in an episode, floor, profiles."""
    in_depth = {name: found for name, found in results.items() if SIZES[name].in_depth}
    parts = [
        "<!-- Written by `python -m experiments.speed.rate`. -->\n",
        f"Measured on {described(machine)}. "
        "Median (lowest to highest of n repeats), float32, CPU time of one thread.\n",
        "## Beside the official code\n",
        markdown_table(COMPARISON, _comparison(results), left=2),
        "\n## Acting late in an episode\n",
        markdown_table(LATE, _late(in_depth)),
        "\n## The floor\n",
        markdown_table(FLOOR, _floor(in_depth)),
        "\n## Where the time goes\n",
        markdown_table(PROFILE, _profiles(in_depth), left=2),
    ]
    return "\n".join(parts) + "\n"


def described(machine: Mapping[str, str]) -> str:
    """Return the facts about a machine in one line."""
    return ", ".join(f"{key} {value}" for key, value in machine.items())


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return `median (lowest to highest, n)`."""
    middle = f"{median(values):,.{digits}f}"
    count = len(values)
    if count == 1:
        return f"{middle} (n = 1)"
    lowest, highest = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return f"{middle} ({lowest} to {highest}, n = {count})"


def _shown(measure: str) -> str:
    """Return a measure's name as the tables have it: results call an environment played in parallel a lane."""
    return measure.replace("lane", "environment")


# Beside the official code


def _comparison(results: Mapping[str, Found]) -> Iterator[Sequence[str]]:
    for size, found in results.items():
        anchors = SIZES[size].anchors
        for measure in TRAININGS:
            yield _training_row(size, measure, found)
        yield _acting_row(size, ACTING_ALONE, found, anchors.acting_1, AIMS.acting_1)
        for measure in ACTING_TOGETHER:
            yield _acting_row(size, measure, found, anchors.acting_100, AIMS.acting_100)
        for measure in TRAININGS:
            yield _memory_row(size, measure, found)


def _training_row(size: str, measure: str, found: Found) -> Sequence[str]:
    speeds = found[measure]["steps_per_second"]
    padded = SIZES[size].anchors.training
    real = padded * found[measure]["real_share"]
    ratio, own_count = median(speeds) / real, median(speeds) / padded
    return [
        size,
        f"{measure}, real steps / s",
        spread(speeds),
        f"{real:,.0f} real ({padded:,.0f} with padding)",
        f"**{ratio:.1f}** a real step ({own_count:.1f} by its own count)",
        f"≥ {AIMS.training:g}",
        _met(ratio >= AIMS.training),
    ]


def _acting_row(size: str, measure: str, found: Found, official: float, aim: float) -> Sequence[str]:
    speeds = found[measure]["steps_per_second"]
    ratio = median(speeds) / official
    return [
        size,
        f"{_shown(measure)}, steps / s",
        spread(speeds),
        f"{official:,.0f}",
        f"**{ratio:.1f}**",
        f"≥ {aim:g}",
        _met(ratio >= aim),
    ]


def _memory_row(size: str, measure: str, found: Found) -> Sequence[str]:
    peak = found[measure]["peak_mb"] / 1000
    imported = found[measure]["imported_mb"] / 1000
    official = SIZES[size].anchors.peak_gb
    ratio = peak / official
    return [
        size,
        f"{measure}, peak GB",
        f"{peak:.2f}, of it {imported:.2f} imports",
        f"{official:.2f}",
        f"**{ratio:.2f}**",
        f"≤ {AIMS.peak:g}",
        _met(ratio <= AIMS.peak),
    ]


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


# In depth


def _late(results: Mapping[str, Found]) -> Iterator[Sequence[str]]:
    for size, found in results.items():
        for step, milliseconds in found["late"]["milliseconds_per_step"].items():
            yield [size, f"{int(step):,}", spread(milliseconds, 3)]


def _floor(results: Mapping[str, Found]) -> Iterator[Sequence[str]]:
    for size, found in results.items():
        floor = found["floor"]
        flops = floor["flops_per_step"]
        fastest = floor["square_flops_per_second"] / flops
        speed = median(found["training"]["steps_per_second"])
        yield [
            size,
            f"{flops / 1e3:,.0f}",
            f"{floor['attention_flops_per_step'] / flops:.0%}",
            f"{floor['square_flops_per_second'] / 1e9:.0f}",
            f"{floor['layer_flops_per_second'] / 1e9:.0f}",
            f"{fastest:,.0f}",
            f"{speed / fastest:.0%}",
        ]


def _profiles(results: Mapping[str, Found]) -> Iterator[Sequence[str]]:
    for size, found in results.items():
        for measure, unit in PROFILES.items():
            profile = found[f"profile, {measure}"]
            yield [
                size,
                _shown(measure),
                _shares(profile["shares"]),
                f"{profile['calls']:,.0f} {unit}",
                f"{profile['milliseconds']:,.1f} {unit}",
            ]


def _shares(shares: Mapping[str, float]) -> str:
    """Return kinds of operators with their shares, the largest first."""
    kinds = sorted(shares, key=lambda kind: -shares[kind])
    return ", ".join(f"{kind} {shares[kind]:.0%}" for kind in kinds if shares[kind] >= SMALLEST_SHARE)
