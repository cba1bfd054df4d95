"""Measures of our memories and the two packages': times in turns, peak memory in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from math import inf
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments.speed.peer_pairs import PAIRS, Pair
from experiments.speed.peer_sizes import BATCH
from experiments.speed.peer_work import (
    Seconds,
    forward,
    generation,
    parameters,
    peak,
    trained,
    training,
)
from rmt_rl.analysis.process_memory import available_mb


class Effort(NamedTuple):
    """The number of repeats of everything that is measured.

    Attributes:
        training: repeats by the number of segments; other numbers are left out.
        forward, generation: repeats.
        generated: the most tokens made one by one.
    """

    training: Mapping[int, int] = MappingProxyType({1: 7, 4: 5, 8: 5, 16: 3, 64: 3})
    forward: int = 7
    generation: int = 3
    generated: int = 256


QUICK = Effort(
    training=MappingProxyType({1: 1, 4: 1, 8: 1}),
    forward=1,
    generation=1,
    generated=3,
)


def measure_all(quick: bool) -> dict[str, Any]:
    """Return the results of every pair, by its name; each measure in a process of its own."""
    effort = QUICK if quick else Effort()
    return {name: _measured(name, pair, effort) for name, pair in PAIRS.items()}


def _measured(name: str, pair: Pair, effort: Effort) -> dict[str, Any]:
    result = {
        "parameters": _in_own_process(parameters, pair),
        **_measured_training(name, pair, effort),
        "tokens": BATCH * pair.forward * pair.segment,
        "forward": _in_own_process(forward, pair, effort.forward),
    }
    _print_times(f"{name}, forward", result["forward"])
    if pair.generates:
        result["generation"] = _in_own_process(generation, pair, effort.generated, effort.generation)
        _print_times(f"{name}, a token", result["generation"])
    return result


def _measured_training(name: str, pair: Pair, effort: Effort) -> dict[str, Any]:
    """Measure training steps on more and more segments, while their memory is to be had."""
    steps: dict[int, Seconds] = {}
    peaks: dict[int, dict[str, float | None]] = {}
    a_segment = dict.fromkeys(_in_own_process(trained, pair), 0.0)  # MB, as far as it is known
    for segments in pair.training:
        repeats = effort.training.get(segments, 0)
        if not repeats:
            continue
        found = {run: _possible_peak(pair, segments, run, mb) for run, mb in a_segment.items()}
        a_segment = {run: inf if mb is None else mb / segments for run, mb in found.items()}
        possible = [run for run, mb in found.items() if mb is not None]
        peaks[segments] = found
        steps[segments] = _in_own_process(training, pair, segments, repeats, possible)
        _print_times(f"{name}, {segments} segments", steps[segments], found)
    return {"training": steps, "peak_mb": peaks}


def _possible_peak(pair: Pair, segments: int, run: str, segment_mb: float) -> float | None:
    """Return the peak, or None if so much a segment would come to more than half of the memory that is free."""
    if segments * segment_mb > available_mb() / 2:
        return None
    found: float = _in_own_process(peak, pair, segments, run)
    return found


def _in_own_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Measure in a process of its own, forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, *arguments).result()


def _print_times(
    title: str,
    seconds: Seconds,
    megabytes: Mapping[str, float | None] | None = None,
) -> None:
    """Print a line for those who wait."""
    middle = {name: float(f"{median(found):.3g}") for name, found in seconds.items()}
    line = f"{title}: s {json.dumps(middle)}"
    if megabytes:
        rounded = {name: None if mb is None else round(mb) for name, mb in megabytes.items()}
        line += f" MB {json.dumps(rounded)}"
    print(line, flush=True)
