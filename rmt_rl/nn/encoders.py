"""Encoders from Gymnasium spaces: a value of the space becomes one token of width D.

Any leading dimensions are allowed: (..., *space.shape) becomes (..., D).
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rmt_rl.errors import UsageError


@singledispatch
def encoder(space: spaces.Space[Any], width: int) -> nn.Module:
    """Return the encoder of a space: Box (vectors, uint8 images), Discrete, MultiDiscrete, MultiBinary, Dict, Tuple.

    Raises:
        UsageError: the space is of another kind.
    """
    raise UsageError(
        f"space={space} has no encoder; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these "
        "(gymnasium.wrappers.TransformObservation can convert to one of them)"
    )


@encoder.register(spaces.Box)
def _(space: spaces.Box, width: int) -> nn.Module:
    return Image(space, width) if is_image(space) else Vector(space, width)


@encoder.register(spaces.MultiBinary)
def _(space: spaces.MultiBinary, width: int) -> nn.Module:
    return Vector(space, width)


@encoder.register(spaces.Discrete)
def _(space: spaces.Discrete, width: int) -> nn.Module:
    return Categories(np.array([space.n]), np.array([space.start]), 0, width)


@encoder.register(spaces.MultiDiscrete)
def _(space: spaces.MultiDiscrete, width: int) -> nn.Module:
    return Categories(space.nvec.ravel(), space.start.ravel(), len(space.shape), width)


@encoder.register(spaces.Dict)
def _(space: spaces.Dict, width: int) -> nn.Module:
    # Sorted, because the order of the keys isn't part of the space: equal spaces must give the same weights.
    return Sum({key: encoder(space[key], width) for key in sorted(space)})


@encoder.register(spaces.Tuple)
def _(space: spaces.Tuple[Any], width: int) -> nn.Module:
    return Sum({str(index): encoder(part, width) for index, part in enumerate(space.spaces)})


def is_image(space: spaces.Box) -> bool:
    """Return True if a Box is an image: uint8 with three dimensions."""
    return space.dtype == np.uint8 and len(space.shape) == 3


class Vector(nn.Module):
    """A linear map of the flattened value."""

    def __init__(self, space: spaces.Box | spaces.MultiBinary, width: int) -> None:
        super().__init__()
        self.dims = len(space.shape)
        self.linear = nn.Linear(int(np.prod(space.shape)), width)

    def forward(self, value: Tensor) -> Tensor:
        """Map (..., *shape) of any real dtype to (..., D)."""
        flat = value.flatten(value.ndim - self.dims) if self.dims else value[..., None]
        out: Tensor = self.linear(flat.to(self.linear.weight.dtype))
        return out


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


class Image(nn.Module):
    """Three strided convolutions, pooled to 4 x 4, then a linear map. Channels may be first or last."""

    def __init__(self, space: spaces.Box, width: int) -> None:
        super().__init__()
        self.channels_last = space.shape[-1] <= space.shape[0]  # an image has fewer channels than pixels in a row
        channels = space.shape[-1] if self.channels_last else space.shape[0]
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(512, width),
        )

    def forward(self, value: Tensor) -> Tensor:
        """Map uint8 (..., H, W, C) or (..., C, H, W) to (..., D)."""
        lead = value.shape[:-3]
        images = value.reshape(-1, *value.shape[-3:])
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        out: Tensor = self.convolutions(images.float() / 255 - 0.5)
        return out.reshape(*lead, -1)


class Sum(nn.Module):
    """The sum of the encodings of a Dict's or Tuple's parts."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.names = list(parts)
        self.parts = nn.ModuleList(parts.values())

    def forward(self, value: dict[str, Any] | tuple[Any, ...]) -> Tensor:
        """Map a value of the space, a dict or tuple with its parts, to (..., D)."""
        leaves = value if isinstance(value, tuple) else [value[name] for name in self.names]
        return torch.stack([part(leaf) for part, leaf in zip(self.parts, leaves, strict=True)]).sum(0)


def return_encoder(width: int) -> nn.Module:
    """Return the encoder of a return-to-go (...,) that is already divided by the data's scale."""
    return Vector(spaces.Box(-np.inf, np.inf, ()), width)
