"""Scales: shift and divide the numbers of observations and actions, so that networks see numbers of about 1.

A scale belongs to a Box of numbers. Images, categories and truth values are left alone.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rmt_rl.nn.images import is_image
from rmt_rl.trees import Place, map_leaves, map_space

FARTHEST = 10.0
"""Standardised observations are clipped here, as `VecNormalize` of Stable-Baselines3 does."""
UNBOUNDED = 1e9
"""Bounds from here on stand for none."""


class Scale(nn.Module):
    """The scale of one Box: `(value - shift) / factor`, a shift and a factor for each of the Box's numbers.

    Args:
        shape: shape of the Box.
        farthest: scaled values are clipped to this distance from 0.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, shape: tuple[int, ...], farthest: float = np.inf) -> None:
        super().__init__()
        self.farthest = farthest
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(shape))

    def set(self, shift: NDArray[Any], factor: NDArray[Any]) -> None:
        """Set the shift and the factor, arrays of the Box's shape."""
        self.shift.copy_(torch.as_tensor(shift))
        self.factor.copy_(torch.as_tensor(factor))

    def forward(self, value: Tensor) -> Tensor:
        """Scale values (..., *shape) of any real dtype."""
        scaled = (value.to(self.shift.dtype) - self.shift) / self.factor
        return scaled.clamp(-self.farthest, self.farthest) if math.isfinite(self.farthest) else scaled

    def undo(self, scaled: Tensor) -> Tensor:
        """Return the values (..., *shape) of scaled ones that weren't clipped."""
        return scaled * self.factor + self.shift


class Scales(nn.Module):
    """The scales of all Boxes of numbers in a space.

    Args:
        space: the space.
        farthest: see `Scale`.
        active: False makes no scales, so values stay as they are.
    """

    def __init__(self, space: Space[Any], *, farthest: float = np.inf, active: bool = True) -> None:
        super().__init__()
        self.places: list[Place] = []
        self.each = nn.ModuleList()

        def index_of(place: Place, leaf: Space[Any]) -> int | None:
            if not active or not holds_numbers(leaf):
                return None
            self.places.append(place)
            self.each.append(Scale(leaf.shape or (), farthest))
            return len(self.places) - 1

        self._indices = map_space(index_of, space)

    def at(self, place: Place) -> Scale:
        """Return the scale of the Box at a place."""
        return cast("Scale", self.each[self.places.index(place)])

    def tree(self) -> Any:
        """Return a value of the space with its scales as leaves, None for what isn't scaled."""
        return map_leaves(lambda index: None if index is None else self.each[index], self._indices)

    def forward(self, value: Any) -> Any:
        """Scale a value of the space, tensors (..., *shape) in dicts and tuples."""

        def scaled(leaf: Tensor, index: int | None) -> Tensor:
            return leaf if index is None else self.each[index](leaf)

        return map_leaves(scaled, value, self._indices) if self.places else value


def has_bounds(space: Space[Any]) -> bool:
    """Return True for a Box of floats all of which have bounds."""
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or 0 in space.shape:
        return False
    return float(np.min(space.low)) > -UNBOUNDED and float(np.max(space.high)) < UNBOUNDED


def holds_numbers(space: Space[Any]) -> bool:
    """Return True for a Box of numbers: no image and no truth values."""
    return isinstance(space, spaces.Box) and space.dtype != np.bool_ and not is_image(space)
