"""The numbers that a network computes for actions, checked before an action is chosen by them."""

from __future__ import annotations

import math

from torch import Tensor

from rmt_rl.errors import UsageError


def check_finite(logits: Tensor) -> None:
    """Raise a UsageError if a number that an agent computed is NaN or infinite."""
    largest = logits.abs().max()
    if not math.isfinite(largest):
        raise not_finite()


def not_finite() -> UsageError:
    """Return the error for an agent whose outputs are NaN or infinite."""
    return UsageError(
        "the agent's outputs are NaN or infinite: its weights, or numbers of the observation, are too large; scale the "
        "observation (gymnasium.wrappers.TransformObservation), or train the agent again"
    )
