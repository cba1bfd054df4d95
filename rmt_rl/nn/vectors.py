"""Encoders of flattened values: vectors by a linear map, categories by embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from rmt_rl.categories import categories
from rmt_rl.errors import UsageError
from rmt_rl.nn.images import brightness, is_image


def flat_encoder(space: Space[Any], width: int) -> nn.Module:
    """Return the linear encoder of a space that isn't empty: of the flattened value, or the sum of its embeddings.

    Raises:
        UsageError: the space is of another kind.
    """
    if is_image(space):
        return Pixels(space, width)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return Vector(space, width)
    variables = categories(space)
    if variables is None:
        raise UsageError(
            f"space={space} has no encoder; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these "
            "(gymnasium.wrappers.TransformObservation can convert to one of them)"
        )
    dims = len(space.shape or ())
    return Categories(variables.sizes, variables.starts, dims, width)


class Vector(nn.Module):
    """A linear map of the flattened value."""

    def __init__(self, space: Space[Any], width: int) -> None:
        super().__init__()
        shape = space.shape or ()
        self.dims = len(shape)
        self.linear = nn.Linear(int(np.prod(shape)), width)

    def forward(self, value: Tensor) -> Tensor:
        """Map (..., *shape) of any real dtype to (..., D)."""
        flat = value.flatten(value.ndim - self.dims) if self.dims else value[..., None]
        out: Tensor = self.linear(flat.to(self.linear.weight.dtype))
        return out


class Pixels(Vector):
    """A linear map of the flattened pixels of an image."""

    def forward(self, value: Tensor) -> Tensor:
        scaled = brightness(value, self.linear.weight)
        return super().forward(scaled)


class Categories(nn.Module):
    """The sum of embeddings, one for each discrete variable of the space.

    Padding is zeros, which may lie outside the space. A value outside the space counts as the nearest category.
    """

    starts: Tensor
    last: Tensor
    offsets: Tensor

    def __init__(self, sizes: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], dims: int, width: int) -> None:
        super().__init__()
        self.dims = dims
        self.embedding = nn.Embedding(int(sizes.sum()), width)
        # Give the sum unit size. Each training step can then change its parts noticeably.
        with torch.no_grad():
            self.embedding.weight *= len(sizes) ** -0.5
        self.register_buffer("starts", torch.as_tensor(starts, dtype=torch.long), persistent=False)
        self.register_buffer("last", torch.as_tensor(sizes - 1, dtype=torch.long), persistent=False)
        self.register_buffer("offsets", torch.as_tensor(np.cumsum(sizes) - sizes, dtype=torch.long), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """Map integers (..., *shape) to (..., D)."""
        flat = value.flatten(value.ndim - self.dims) if self.dims else value[..., None]
        index = torch.minimum((flat.long() - self.starts).clamp(min=0), self.last)
        if len(self.last) == 1:
            embedded: Tensor = self.embedding(index[..., 0])
            return embedded
        # One-hot times weights takes a fifth of the memory and time of embedding each of many variables and summing.
        places, weights = index + self.offsets, self.embedding.weight
        one_hot = weights.new_zeros(*index.shape[:-1], len(weights)).scatter_(-1, places, 1)
        return one_hot @ weights
