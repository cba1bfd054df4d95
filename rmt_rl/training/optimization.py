"""The course of the learning rate, the optimiser's step, and the parameters that weight decay spares."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from rmt_rl.runs.options import LearningRateConfig

Group = dict[str, Any]
"""A group of parameters and its options, as PyTorch's optimisers take it."""


def learning_rate(options: LearningRateConfig, update: int) -> float:
    """Return the rate of an update, counted from 0: linear warm-up, constant, then cosine decay to `final_rate`."""
    warm_up_updates = max(1, options.warmup)
    warm_up = (update + 1) / warm_up_updates
    warm_up = min(1.0, warm_up)
    decay_start = options.decay_from * options.updates
    decay_updates = max(1.0, options.updates - decay_start)
    progress = (update - decay_start) / decay_updates
    progress = max(0.0, progress)
    progress = min(1.0, progress)
    angle = math.pi * progress
    cosine = 0.5 * (1 + math.cos(angle))
    final_rate = options.final_rate
    decay = final_rate + (1 - final_rate) * cosine
    return options.learning_rate * warm_up * decay


def make_step(optimizer: Optimizer, rate: float) -> None:
    """Make a step of the optimiser at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def decay_groups(model: nn.Module, weight_decay: float) -> list[Group]:
    """Return all parameters in order, as groups for AdamW. Parameters named in `undecayed` have no weight decay.

    A module's `undecayed` is a ClassVar of dotted names: parameters whose neutral value isn't zero, such as time
    constants and gates.
    """
    undecayed = _undecayed(model)
    groups = []
    for is_undecayed, parameters in groupby(model.parameters(), undecayed.__contains__):
        decay = 0.0 if is_undecayed else weight_decay
        group = {
            "params": list(parameters),
            "weight_decay": decay,
        }
        groups.append(group)
    return groups


def _undecayed(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that a module of the model names in `undecayed`."""
    found: set[nn.Parameter] = set()
    for module in model.modules():
        names = getattr(module, "undecayed", ())
        for name in names:
            found.add(module.get_parameter(name))
    return found


def seed_of(*words: int) -> int:
    """Return the seed of PyTorch's generator that follows from these words, e.g. a run's seed and an update."""
    sequence = np.random.SeedSequence(words)
    (seed,) = sequence.generate_state(1, np.uint64)
    return int(seed)
