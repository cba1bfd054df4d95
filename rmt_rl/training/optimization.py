"""The course of the learning rate, and the parameters that weight decay spares."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from torch import nn

from rmt_rl.runs.options import LearningRateConfig


def learning_rate(options: LearningRateConfig, update: int) -> float:
    """Return the rate of an update, counted from 0: linear warm-up, constant, then cosine decay to `final_rate`."""
    warm = min(1.0, (update + 1) / max(1, options.warmup))
    start = options.decay_from * options.updates
    done = min(1.0, max(0.0, (update - start) / max(1.0, options.updates - start)))
    decay = options.final_rate + (1 - options.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
    return options.learning_rate * warm * decay


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return all parameters in order, for AdamW, those that a module calls `undecayed` without weight decay.

    `undecayed` is a ClassVar of dotted names, of parameters whose neutral value isn't zero: time constants, gates.
    """
    undecayed = {module.get_parameter(name) for module in model.modules() for name in getattr(module, "undecayed", ())}
    alike = groupby(model.parameters(), lambda parameter: parameter in undecayed)
    return [{"params": list(each), "weight_decay": 0.0 if free else weight_decay} for free, each in alike]
