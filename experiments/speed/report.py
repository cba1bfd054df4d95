"""The tables of `rate.md`, from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.speed.sizes import AIMS, BESIDE, MEMORY_AIM, OFFICIAL, OFFICIAL_TRAINING, OURS, REPLAY, TRAINING
from rmt_rl.analysis.markdown import markdown_table

Found = Mapping[str, Any]
"""Results of one size, see `rate.measured`."""
PROFILES = {TRAINING: "an update", "acting, 1 environment": "a step", "acting, 100 environments": "a step"}
MEMORIES = (TRAINING, REPLAY)
SMALLEST_SHARE = 0.005  # that is shown
ALONE = ["size", "measure", "ours"]
COMPARISON = [*ALONE, "official code", "ours / official code", "aim", "met"]
PARAMETERS = ["size", "code", "parameters", "of which a training step changes"]
LATE = ["size", "step", "ms a step, one environment"]
FLOOR = ["size", "kFLOP a step", "attention", "GFLOP/s, 1024²", "GFLOP/s, its products", "steps / s", "reached"]
PROFILE = ["size", "", "share of the time", "operator calls", "ms, profiled"]


def rate_report(machine: Mapping[str, str], results: Mapping[str, Found]) -> str:
    """Return Markdown: machine, parameters, speeds and memory, acting late in an episode, floor, profiles."""
    in_depth = {name: found for name, found in results.items() if "late" in found}
    beside = any(OFFICIAL_TRAINING in found["speeds"] for found in results.values())
    parts = [
        "<!-- Written by `python -m experiments.speed.rate`. -->\n",
        f"Measured on {described(machine)}. "
        "Median (lowest to highest of n repeats), float32, CPU time of one thread. "
        "Speeds are environment steps a second, in training without padding.\n",
        "## Parameters\n",
        markdown_table(PARAMETERS, _parameters(results), left=2),
        "\n## Beside the official code\n" if beside else "\n## Ours alone\n",
        markdown_table(COMPARISON if beside else ALONE, _rows(results, beside), left=2),
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


# Beside the official code


def _parameters(results: Mapping[str, Found]) -> Iterator[Sequence[str]]:
    names = {OURS: "ours", OFFICIAL: "official code"}
    for size, found in results.items():
        for side, counts in found["parameters"].items():
            yield [size, names[side], f"{counts['all']:,}", f"{counts['trained']:,}"]


def _rows(results: Mapping[str, Found], beside: bool) -> Iterator[Sequence[str]]:
    for size, found in results.items():
        for row in [*_speed_rows(found), *_memory_rows(found)]:
            yield [size, *(row if beside else row[:2])]


def _speed_rows(found: Found) -> Iterator[Sequence[str]]:
    speeds = found["speeds"]
    for measure, aim in AIMS.items():
        ours, official = speeds[measure], speeds.get(BESIDE[measure])
        if official is None:
            yield [f"{measure}, steps / s", spread(ours)]
            continue
        ratios = [our / their for our, their in zip(ours, official, strict=True)]
        met = median(ratios) >= aim
        yield [f"{measure}, steps / s", spread(ours), spread(official), _ratio(ratios, 1), f"≥ {aim:g}", _met(met)]


def _memory_rows(found: Found) -> Iterator[Sequence[str]]:
    memory = found["memory"]
    for measure in MEMORIES:
        ours, official = memory[measure], memory.get(BESIDE[measure])
        if official is None:
            yield [f"{measure}, memory, MB", f"{ours:,.0f}"]
            continue
        met = ours / official <= MEMORY_AIM
        ratio = _ratio([ours / official], 2)
        yield [f"{measure}, memory, MB", f"{ours:,.0f}", f"{official:,.0f}", ratio, f"≤ {MEMORY_AIM:g}", _met(met)]


def _ratio(ratios: Sequence[float], digits: int) -> str:
    return f"**{spread(ratios, digits)}**" if len(ratios) > 1 else f"**{ratios[0]:.{digits}f}**"


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
        speed = median(found["speeds"][TRAINING])
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
                measure,
                _shares(profile["shares"]),
                f"{profile['calls']:,.0f} {unit}",
                f"{profile['milliseconds']:,.1f} {unit}",
            ]


def _shares(shares: Mapping[str, float]) -> str:
    """Return kinds of operators with their shares, the largest first."""
    kinds = sorted(shares, key=lambda kind: -shares[kind])
    return ", ".join(f"{kind} {shares[kind]:.0%}" for kind in kinds if shares[kind] >= SMALLEST_SHARE)
