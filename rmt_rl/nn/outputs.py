"""The numbers that a network computes for actions, checked before an action chosen by them is played."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.errors import UsageError


def on_host(chosen: Tensor, logits: Tensor) -> NDArray[Any]:
    """Return the chosen numbers (B, N) on the host, by the only copy of an acting step from the device.

    Raises:
        UsageError: one of the logits is NaN or infinite.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    largest = logits.abs().max().to(wide)
    together = torch.cat((chosen, largest.expand(len(chosen), 1)), 1).cpu().numpy()
    if not math.isfinite(together[0, -1]):
        raise not_finite()
    numbers: NDArray[Any] = together[:, :-1]
    return numbers


def not_finite() -> UsageError:
    """Return the error for an agent whose outputs are NaN or infinite."""
    return UsageError(
        "the agent's outputs are NaN or infinite: its weights, or numbers of the observation, are too large; scale the "
        "observation (gymnasium.wrappers.TransformObservation), or train the agent again"
    )
