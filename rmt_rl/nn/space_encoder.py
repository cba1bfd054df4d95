"""Encoders from Gymnasium spaces: a value of the space becomes one token of width D.

Any leading dimensions are allowed: (..., *space.shape) becomes (..., D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.nn.encoders.small import small
from rmt_rl.nn.images import is_image
from rmt_rl.nn.vectors import Vector
from rmt_rl.plugins import is_object_name
from rmt_rl.registry import load
from rmt_rl.trees import Key, leaves, part_at

AUTO = "auto"  # the encoder of leaves that the chosen one doesn't fit
MakeEncoder: TypeAlias = Callable[[Space[Any], int], nn.Module]


def encoder(space: Space[Any], width: int, make: MakeEncoder = small) -> nn.Module:
    """Return the encoder of a space: Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these.

    Args:
        space: values of no size are encoded as zeros, a Dict or Tuple as the sum of its parts.
        width: D.
        make: makes the encoder of a leaf from the leaf and the width.

    Raises:
        UsageError: the space is of another kind.
    """
    match space:
        case spaces.Dict():
            # Sorted, because the order of the keys isn't part of the space: equal spaces must give the same weights.
            return _sum(sorted(space), space, width, make)
        case spaces.Tuple():
            return _sum(range(len(space)), space, width, make)
    if _is_empty(space):
        return Nothing(len(space.shape or ()), width)
    return make(space, width)


def observation_encoder(space: Space[Any], width: int, name: str) -> nn.Module:
    """Return the encoder of a name, such as `nature` or `module:Name`, for observations.

    Each leaf of a Dict or Tuple gets it if the leaf fits, else the encoder `auto`.

    Raises:
        UsageError: no encoder has this name, its module isn't imported, it fits no leaf, or what it makes isn't an
            encoder.
    """
    chosen: Any = load("encoders", name)
    auto: Any = load("encoders", AUTO)
    fits = getattr(chosen, "fits", _fits_all)
    filled = [leaf for _, leaf in leaves(space) if not _is_empty(leaf)]
    if filled and not any(map(fits, filled)):
        wanted = getattr(chosen, "WANTED", "other spaces")
        raise UsageError(
            f"encoder={name!r} is for {wanted}, but the observation space is {space}; choose another one of rmt-rl "
            "list, or leave it out"
        )

    def make(leaf: Space[Any], width: int) -> nn.Module:
        if not fits(leaf):
            return cast("nn.Module", auto(leaf, width))
        if is_object_name(name):
            return _made_by_user(chosen, leaf, width, name)
        return cast("nn.Module", chosen(leaf, width))

    return encoder(space, width, make)


def return_encoder(width: int) -> nn.Module:
    """Return the encoder of a return-to-go (...,) that is already divided by the data's scale."""
    return Vector(spaces.Box(-np.inf, np.inf, ()), width)


def _fits_all(leaf: Space[Any]) -> bool:
    return True


def _is_empty(leaf: Space[Any]) -> bool:
    return 0 in (leaf.shape or ())


def _sum(keys: Iterable[Key], space: spaces.Dict | spaces.Tuple[Any], width: int, make: MakeEncoder) -> nn.Module:
    """Return the encoder of a Dict or Tuple; a part without leaves, such as an empty Tuple, has nothing to encode."""
    parts: dict[Key, nn.Module] = {}
    for key in keys:
        part = part_at(space, (key,))
        if any(True for _ in leaves(part)):
            parts[key] = encoder(part, width, make)
    return Sum(parts)


@torch.no_grad()
def _made_by_user(make: MakeEncoder, leaf: Space[Any], width: int, name: str) -> nn.Module:
    """Return the encoder that a class or function of the user makes. Trying it also makes the weights of lazy modules.

    Raises:
        UsageError: it can't be made, or doesn't map a batch of steps to tokens.
    """
    about = f"encoder={name!r} for {leaf}"
    failures = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)
    try:
        made = make(leaf, width)
    except failures as error:
        raise UsageError(f"{about} can't be made from a space and a width={width} ({error}); correct it") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{about} gave {made!r}; return a torch.nn.Module")
    values = torch.zeros(2, 3, *(leaf.shape or ()), dtype=_dtype_of_values(leaf))
    made.eval()  # it then draws no random numbers, and keeps its running statistics
    try:
        tokens = made(values)
    except failures as error:
        raise UsageError(
            f"{about}: its forward fails on {values.dtype} values of shape {tuple(values.shape)} ({error}); map "
            "(..., *space.shape) to (..., width)"
        ) from error
    made.train()
    shape = getattr(tokens, "shape", None)
    if shape != (2, 3, width):
        raise UsageError(
            f"{about}: values of shape {tuple(values.shape)} became {shape and tuple(shape)} instead of "
            f"{(2, 3, width)}; map (..., *space.shape) to (..., width={width})"
        )
    return made


def _dtype_of_values(leaf: Space[Any]) -> torch.dtype:
    """Return the dtype in which an encoder of observations gets the values of a leaf."""
    if is_image(leaf):
        return torch.uint8
    if leaf.dtype == np.bool_:
        return torch.bool
    return torch.float32 if isinstance(leaf, spaces.Box) else torch.int64


class Nothing(nn.Module):
    """Zeros, for values of no size, such as those of a Box (0,)."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.dims, self.width = dims, width

    def forward(self, value: Tensor) -> Tensor:
        """Map (..., *shape) to (..., D)."""
        lead = value.shape[: value.ndim - self.dims]
        return torch.zeros(*lead, self.width, device=value.device)


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
