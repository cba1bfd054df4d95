"""The numbers that a network computes for actions, checked before an action is chosen by them."""

from __future__ import annotations

import math

from torch import Tensor

from rmt_rl.errors import UsageError


def finite(logits: Tensor) -> Tensor:
    """Return the logits as they are.

    Raises:
        UsageError: one of them is NaN or infinite.
    """
    largest = logits.abs().max()
    if not math.isfinite(largest):
        raise not_finite()
    return logits


def not_finite() -> UsageError:
    """Return the error for an agent whose outputs are NaN or infinite."""
    return UsageError(
        "the agent's outputs are NaN or infinite: its weights, or numbers of the observation, are too large; scale the "
        "observation (gymnasium.wrappers.TransformObservation), or train the agent again"
    )
