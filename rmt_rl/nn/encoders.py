"""Encoders from Gymnasium spaces: a value of the space becomes one token of width D.

Any leading dimensions are allowed: (..., *space.shape) becomes (..., D).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rmt_rl.categories import categories
from rmt_rl.errors import UsageError
from rmt_rl.trees import Key, leaves, part_at


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
    return Image(space, width) if is_image(space) else _flat_encoder(space, width)


@encoder.register(spaces.Discrete)
@encoder.register(spaces.MultiBinary)
@encoder.register(spaces.MultiDiscrete)
def _flat_encoder(space: spaces.Space[Any], width: int) -> nn.Module:
    """Return the encoder of a space whose values are flattened."""
    shape = space.shape or ()
    if np.prod(shape) == 0:
        return Nothing(len(shape), width)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return Vector(space, width)
    variables = categories(space)
    assert variables is not None
    return Categories(variables.sizes, variables.starts, len(shape), width)


@encoder.register(spaces.Dict)
def _(space: spaces.Dict, width: int) -> nn.Module:
    # Sorted, because the order of the keys isn't part of the space: equal spaces must give the same weights.
    return _sum(sorted(space), space, width)


@encoder.register(spaces.Tuple)
def _(space: spaces.Tuple[Any], width: int) -> nn.Module:
    return _sum(range(len(space)), space, width)


def _sum(keys: Iterable[Key], space: spaces.Dict | spaces.Tuple[Any], width: int) -> nn.Module:
    """Return the encoder of a Dict or Tuple; a part without leaves, such as an empty Tuple, has nothing to encode."""
    parts: dict[Key, nn.Module] = {}
    for key in keys:
        part = part_at(space, (key,))
        if any(True for _ in leaves(part)):
            parts[key] = encoder(part, width)
    return Sum(parts)


def is_image(space: spaces.Box) -> bool:
    """Return True if a Box is an image: uint8 with three dimensions, none of them empty."""
    return space.dtype == np.uint8 and len(space.shape) == 3 and min(space.shape) > 0


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


class Nothing(nn.Module):
    """Zeros, for values of no size, such as those of a Box (0,)."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.dims, self.width = dims, width

    def forward(self, value: Tensor) -> Tensor:
        """Map (..., *shape) to (..., D)."""
        lead = value.shape[: value.ndim - self.dims]
        return torch.zeros(*lead, self.width, device=value.device)


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

    def __init__(self, parts: dict[Key, nn.Module]) -> None:
        super().__init__()
        self.keys = list(parts)
        self.parts = nn.ModuleList(parts.values())

    def forward(self, value: dict[str, Any] | tuple[Any, ...]) -> Tensor:
        """Map a value of the space, a dict or tuple with its parts, to (..., D)."""
        encoded = []
        for key, encode in zip(self.keys, self.parts, strict=True):
            part = part_at(value, (key,))
            encoded.append(encode(part))
        return torch.stack(encoded).sum(0)


def return_encoder(width: int) -> nn.Module:
    """Return the encoder of a return-to-go (...,) that is already divided by the data's scale."""
    return Vector(spaces.Box(-np.inf, np.inf, ()), width)
