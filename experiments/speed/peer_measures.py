"""What is measured of our memories and the two packages': times in turns, peak memory in a process of its own."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.speed.measures import peak_mb
from experiments.speed.peer_ours import our_context, our_memory_tokens, our_neural_memory
from experiments.speed.peer_sizes import (
    BATCH,
    CONTEXT_SEGMENT,
    MEMORY_SEGMENT,
    TOKEN_SEGMENT,
    Contestant,
    tokens,
    vectors,
)
from experiments.speed.peer_theirs import TheirContext, TheirMemoryTokens, TheirNeural

Runs = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]


class Pair(NamedTuple):
    """What is compared, and on how much.

    Attributes:
        ours, theirs: build the contestants.
        data: makes a batch of so many tokens a lane.
        segment: tokens of a segment.
        training: on how many segments a training step is measured.
        forward: on how many segments a forward pass is measured.
        generates: whether tokens are made one by one.
    """

    ours: Callable[[], Contestant]
    theirs: Callable[[], Contestant]
    data: Callable[[int], Tensor]
    segment: int
    training: tuple[int, ...] = (1, 4, 16, 64)
    forward: int = 4
    generates: bool = True

    def contestants(self) -> dict[str, Contestant]:
        """Both, with the same seed."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        return {"ours": self.ours(), "theirs": self.theirs()}


PAIRS = {
    "memory tokens": Pair(our_memory_tokens, TheirMemoryTokens, tokens, TOKEN_SEGMENT),
    "neural memory": Pair(our_neural_memory, partial(TheirNeural, relearn=False), vectors, MEMORY_SEGMENT),
    "neural memory, theirs relearning": Pair(
        our_neural_memory, partial(TheirNeural, relearn=True), vectors, MEMORY_SEGMENT, training=(4,), generates=False
    ),
    "memory as context": Pair(
        our_context, partial(TheirContext, relearn=False), tokens, CONTEXT_SEGMENT, training=(8,), forward=8
    ),
    "memory as context, theirs relearning": Pair(
        our_context, partial(TheirContext, relearn=True), tokens, CONTEXT_SEGMENT, (8,), forward=8, generates=False
    ),
}


class Effort(NamedTuple):
    """How often everything is measured.

    Attributes:
        training: repeats by the number of segments; other numbers are left out.
        forward, generation: repeats.
        generated: the most tokens made one by one.
    """

    training: Mapping[int, int] = MappingProxyType({1: 7, 4: 5, 8: 5, 16: 3, 64: 3})
    forward: int = 7
    generation: int = 3
    generated: int = 256


QUICK = Effort(training=MappingProxyType({1: 1, 4: 1, 8: 1}), forward=1, generation=1, generated=3)


def measure_all(quick: bool) -> dict[str, Any]:
    """What is measured of every pair, by its name; each measure in a process of its own."""
    return {name: _measured(name, pair, QUICK if quick else Effort()) for name, pair in PAIRS.items()}


def _measured(name: str, pair: Pair, effort: Effort) -> dict[str, Any]:
    peaks: dict[int, dict[str, float | None]] = {}
    steps: dict[int, Seconds] = {}
    a_segment = dict.fromkeys(_apart(trained, pair), 0.0)  # MB, as far as it is known
    for segments in pair.training:
        if repeats := effort.training.get(segments):
            peaks[segments] = {run: _possible_peak(pair, segments, run, mb) for run, mb in a_segment.items()}
            a_segment = {run: inf if mb is None else mb / segments for run, mb in peaks[segments].items()}
            possible = [run for run, mb in peaks[segments].items() if mb is not None]
            steps[segments] = _apart(training, pair, segments, repeats, possible)
            _tell(f"{name}, {segments} segments", steps[segments], peaks[segments])
    result = {"parameters": _apart(parameters, pair), "training": steps, "peak_mb": peaks}
    result |= {"tokens": BATCH * pair.forward * pair.segment, "forward": _apart(forward, pair, effort.forward)}
    _tell(f"{name}, forward", result["forward"])
    if pair.generates:
        result["generation"] = _apart(generation, pair, effort.generated, effort.generation)
        _tell(f"{name}, a token", result["generation"])
    return result


def _possible_peak(pair: Pair, segments: int, run: str, segment_mb: float) -> float | None:
    """The peak, or None if so much a segment would come to more than half of the memory that is free."""
    return None if segments * segment_mb > _free_mb() / 2 else _apart(peak, pair, segments, run)


def _apart(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Measure in a process of its own, forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, *arguments).result()


def _tell(what: str, seconds: Seconds, megabytes: Mapping[str, float | None] | None = None) -> None:
    """A line for whoever waits."""
    middle = {name: float(f"{median(found):.3g}") for name, found in seconds.items()}
    peaks = {name: mb and round(mb) for name, mb in (megabytes or {}).items()}
    print(f"{what}: s {json.dumps(middle)}", f"MB {json.dumps(peaks)}" if peaks else "", flush=True)


def parameters(pair: Pair) -> dict[str, int]:
    """How many parameters of each contestant learn, learned positions (theirs; ours are rotary) left out."""
    counts = {}
    for side, contestant in pair.contestants().items():
        contestant.backward(pair.data(2 * pair.segment), "full")
        learning = [(name, it) for name, it in contestant.named_parameters() if it.grad is not None]
        counts[side] = sum(it.numel() for name, it in learning if "pos_emb" not in name)
    return counts


def trained(pair: Pair) -> list[str]:
    """The ways of training that are measured."""
    return [f"{side}, {gradient}" for side, it in pair.contestants().items() for gradient in it.gradients]


# Time


class Trainee(NamedTuple):
    """A contestant and its optimiser."""

    contestant: Contestant
    optimizer: torch.optim.Optimizer


def training(pair: Pair, segments: int, repeats: int, names: list[str]) -> Seconds:
    """CPU seconds of training steps: forward, backward, AdamW."""
    trainees = _trainees(pair)
    _timed(training_steps(pair, trainees, 1), 1)
    runs = training_steps(pair, trainees, segments)
    return _timed({name: runs[name] for name in names}, repeats)


def training_steps(pair: Pair, trainees: Mapping[str, Trainee], segments: int) -> Runs:
    """A training step of each contestant by each of its gradients, on the same data."""
    data = pair.data(segments * pair.segment)
    return {
        f"{side}, {gradient}": partial(training_step, trainee, data, gradient)
        for side, trainee in trainees.items()
        for gradient in trainee.contestant.gradients
    }


def training_step(trainee: Trainee, data: Tensor, gradient: str) -> None:
    """Forward, backward, AdamW."""
    trainee.optimizer.zero_grad()
    trainee.contestant.backward(data, gradient)
    trainee.optimizer.step()


def _trainees(pair: Pair) -> dict[str, Trainee]:
    return {side: Trainee(it, torch.optim.AdamW(it.parameters(), lr=1e-4)) for side, it in pair.contestants().items()}


def forward(pair: Pair, repeats: int) -> Seconds:
    """CPU seconds of a forward pass without graph."""
    length = pair.forward * pair.segment
    data = pair.data(length)[:, :length]
    with torch.no_grad():
        runs = {side: partial(it.eval().look, data) for side, it in pair.contestants().items()}
        _timed(runs, 1)
        return _timed(runs, repeats)


def generation(pair: Pair, count: int, repeats: int) -> Seconds:
    """CPU seconds a token made one by one, in one lane."""
    contestants = {side: it.eval() for side, it in pair.contestants().items()}
    ways = {f"{side}, {name}": way for side, it in contestants.items() for name, way in it.ways().items()}
    with torch.no_grad():
        _timed({name: partial(way, 2) for name, way in ways.items()}, 1)
        seconds = _timed({name: partial(way, count) for name, way in ways.items()}, repeats)
    return {name: [each / count for each in found] for name, found in seconds.items()}


def _timed(runs: Runs, repeats: int) -> Seconds:
    """CPU seconds of each, taken in turns, so that a change of the machine's speed meets all."""
    seconds: Seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return seconds


# Memory

_MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD


def peak(pair: Pair, segments: int, name: str) -> float:
    """The most memory (MB) resident in a training step, above what stands before it; best in a process of its own.

    Before it stand imports, parameters, AdamW's averages and data; a step of one segment has loaded all that is loaded
    on first use. Freed blocks of 64 KiB or more go back to the system at once, so that what is resident is alive.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
    trainees = _trainees(pair)
    training_steps(pair, trainees, 1)[name]()
    run = training_steps(pair, trainees, segments)[name]
    for trainee in trainees.values():
        trainee.optimizer.zero_grad()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_mb()
    run()
    return peak_mb() - before


def _free_mb() -> float:
    """Memory that could be had."""
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) / 1000 * 1.024
