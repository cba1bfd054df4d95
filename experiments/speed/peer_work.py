"""The work that is measured of a pair: training steps, forward passes, tokens one by one, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.speed.peer_pairs import Pair
from experiments.speed.peer_sizes import Contestant, Generate
from experiments.speed.turns import peak_of, return_freed_blocks

Runs = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]


def parameters(pair: Pair) -> dict[str, int]:
    """Count the parameters of each contestant that learn, learned positions (theirs; ours are rotary) left out."""
    counts = {}
    for side, contestant in pair.contestants().items():
        contestant.backward(pair.data(2 * pair.segment), "full")
        counts[side] = 0
        for name, parameter in contestant.named_parameters():
            if parameter.grad is not None and "pos_emb" not in name:
                counts[side] += parameter.numel()
    return counts


def trained(pair: Pair) -> list[str]:
    """Return the ways of training that are measured, e.g. `ours, replay`."""
    ways = []
    for side, contestant in pair.contestants().items():
        ways += [f"{side}, {gradient}" for gradient in contestant.gradients]
    return ways


# Time


class Trainee(NamedTuple):
    """A contestant and its optimiser."""

    contestant: Contestant
    optimizer: torch.optim.Optimizer


def training(pair: Pair, segments: int, repeats: int, names: list[str]) -> Seconds:
    """Measure CPU seconds of training steps: forward, backward, AdamW."""
    trainees = _trainees(pair)
    timed(training_steps(pair, trainees, 1), 1)
    runs = training_steps(pair, trainees, segments)
    return timed({name: runs[name] for name in names}, repeats)


def training_steps(pair: Pair, trainees: Mapping[str, Trainee], segments: int) -> Runs:
    """Return a training step of each contestant by each of its gradients, on the same data."""
    data = pair.data(segments * pair.segment)
    steps = {}
    for side, trainee in trainees.items():
        for gradient in trainee.contestant.gradients:
            steps[f"{side}, {gradient}"] = partial(training_step, trainee, data, gradient)
    return steps


def training_step(trainee: Trainee, data: Tensor, gradient: str) -> None:
    """Run forward, backward and AdamW."""
    trainee.optimizer.zero_grad()
    trainee.contestant.backward(data, gradient)
    trainee.optimizer.step()


def _trainees(pair: Pair) -> dict[str, Trainee]:
    trainees = {}
    for side, contestant in pair.contestants().items():
        optimizer = torch.optim.AdamW(contestant.parameters(), lr=1e-4)
        trainees[side] = Trainee(contestant, optimizer)
    return trainees


def forward(pair: Pair, repeats: int) -> Seconds:
    """Measure CPU seconds of a forward pass without graph."""
    length = pair.forward * pair.segment
    data = pair.data(length)[:, :length]
    with torch.no_grad():
        contestants = pair.contestants()
        runs = {side: partial(each.eval().look, data) for side, each in contestants.items()}
        timed(runs, 1)
        return timed(runs, repeats)


def generation(pair: Pair, count: int, repeats: int) -> Seconds:
    """Measure CPU seconds a token made one by one, in one sequence."""
    ways = {}
    for side, contestant in pair.contestants().items():
        for name, way in contestant.eval().ways().items():
            ways[f"{side}, {name}"] = way
    with torch.no_grad():
        timed(_generating(ways, 2), 1)
        seconds = timed(_generating(ways, count), repeats)
    return {name: [each / count for each in found] for name, found in seconds.items()}


def _generating(ways: Mapping[str, Generate], count: int) -> Runs:
    return {name: partial(way, count) for name, way in ways.items()}


def timed(runs: Runs, repeats: int) -> Seconds:
    """Measure CPU seconds of each, taken in turns, so that a change of the machine's speed meets all."""
    seconds: Seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return seconds


# Memory


def peak(pair: Pair, segments: int, name: str) -> float:
    """Measure the most memory (MB) resident in a training step, above what stands before it.

    Best in a process of its own. Before it stand imports, parameters, AdamW's averages and data; a step of one segment
    has loaded all that is loaded on first use.
    """
    return_freed_blocks()
    trainees = _trainees(pair)
    training_steps(pair, trainees, 1)[name]()
    run = training_steps(pair, trainees, segments)[name]
    for trainee in trainees.values():
        trainee.optimizer.zero_grad()
    return peak_of(run)
