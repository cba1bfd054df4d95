"""A linear map and a sine."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import Tensor, nn

from rmt_rl.nn.vectors import flat_encoder


class Wave(nn.Module):
    """The sine of a linear map."""

    def __init__(self, space: Space[Any], width: int) -> None:
        super().__init__()
        self.inner = flat_encoder(space, width)

    def forward(self, value: Tensor) -> Tensor:
        """Map (..., *shape) to (..., D)."""
        encoded: Tensor = self.inner(value)
        return encoded.sin()


ENCODER = Wave
