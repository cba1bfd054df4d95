"""The base of all families over the numbers of a Box: scaled targets, deterministic and drawn actions, bounds."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.nn.heads.base import Head, graph_dtype
from rmt_rl.nn.scaling import Scale

NEAR = 0.1
"""Scaled actions count as correct up to this distance."""


class Continuous(Head):
    """A family of distributions over the scaled numbers of a Box; loss and accuracy are in their unit.

    Args:
        space: the Box.
        scale: the scale of its actions; None scales nothing.

    Attributes:
        needs_bounds: the family is for Boxes all of whose numbers have bounds.
    """

    needs_bounds: ClassVar[bool] = False

    def __init__(self, space: spaces.Box, scale: Scale | None = None) -> None:
        self.space, self.count = space, int(np.prod(space.shape))
        self.scale = scale

    @abstractmethod
    def mode(self, numbers: Tensor) -> Tensor:
        """Return the scaled deterministic actions (..., count) for parameters (..., P)."""

    @abstractmethod
    def sample(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Return scaled actions (B, count), drawn for parameters (B, P)."""

    def targets(self, action: Tensor, like: Tensor) -> Tensor:
        """Return actions (..., *shape), scaled, as (..., count) in the leading dimensions and the dtype of `like`."""
        scale = self.scale_on(action.device)
        scaled = action if scale is None else scale(action)
        return scaled.reshape(*like.shape[:-1], self.count).to(like.dtype)

    def scale_on(self, device: torch.device) -> Scale | None:
        """Return the scale on a device. The agent moves its own; a head's own follows its values."""
        return self.scale

    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        """Return the share of dimensions whose deterministic action is less than 0.1 from the action, both scaled."""
        mode = self.mode(numbers)
        errors: Tensor = (self.targets(action, numbers) - mode).abs()
        return (errors < NEAR).float().mean(-1)

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        chosen = self.mode(numbers) if generator is None else self.sample(numbers, generator)
        scaled = chosen.float().reshape(-1, *self.space.shape)
        scale = self.scale_on(scaled.device)
        unscaled = scaled if scale is None else scale.undo(scaled)
        return unscaled.reshape(numbers.shape[0], self.count)

    def chosen_loss(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        return self.loss(numbers, chosen.reshape(*numbers.shape[:-1], *self.space.shape))

    def values(self, chosen: NDArray[Any]) -> Any:
        action = chosen.astype(np.float64).reshape(-1, *self.space.shape)
        if np.issubdtype(self.space.dtype, np.integer):
            return _whole(action, self.space)
        limits = np.finfo(str(self.space.dtype))
        bounded = np.clip(action, self.space.low, self.space.high)
        return np.clip(bounded, limits.min, limits.max).astype(self.space.dtype)

    def tensors(self, chosen: Tensor) -> Tensor:
        action = chosen.double().reshape(-1, *self.space.shape)
        dtype = graph_dtype(self.space.dtype)
        low, high = _bounds(self.space, dtype)
        if dtype.is_floating_point:
            return action.clamp(low, high).to(dtype)
        nearest = action.round()
        is_low, is_high = nearest <= low.double(), nearest >= high.double()
        inside = torch.where(is_low | is_high, 0, nearest).long()
        return torch.where(is_low, low, torch.where(is_high, high, inside)).to(dtype)


def _bounds(space: spaces.Box, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the bounds of a Box, float64 or int64, within the range of a dtype."""
    low, high = (_within(bound, dtype) for bound in (space.low, space.high))
    return low, high


def _within(bound: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        limits = torch.finfo(dtype)
        return torch.as_tensor(np.clip(bound.astype(np.float64), limits.min, limits.max))
    largest = torch.iinfo(dtype).max
    return torch.as_tensor(np.array(np.minimum(bound.astype(object), largest), np.int64))


def _whole(action: np.ndarray[Any, Any], space: spaces.Box) -> np.ndarray[Any, Any]:
    """Return float64 actions (B, ...) as the nearest integers of a Box.

    float64 lacks most of the largest 64-bit integers. So only actions between the bounds are turned into integers.
    """
    nearest = np.rint(action)
    is_low = nearest <= space.low.astype(np.float64)
    is_high = nearest >= space.high.astype(np.float64)
    inside = np.where(is_low | is_high, 0, nearest).astype(space.dtype)
    return np.select([is_low, is_high], [space.low, space.high], inside).astype(space.dtype)


def wide(numbers: Tensor) -> Tensor:
    """Return parameters in float32, or in their own dtype if that is wider."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))
