"""Two layers on the flattened value; categories are embedded."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import nn

from rmt_rl.nn.vectors import flat_encoder

HIDDEN = 4  # width of the hidden layer, in widths of a token


def mlp(space: Space[Any], width: int) -> nn.Module:
    """Return a linear map, a GELU and another linear map."""
    hidden = HIDDEN * width
    return nn.Sequential(flat_encoder(space, hidden), nn.GELU(), nn.Linear(hidden, width))


ENCODER = mlp
