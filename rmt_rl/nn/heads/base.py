"""The interface of action heads: parameters computed from the core's output become a distribution over actions.

A head needs P distribution parameters (`size`): logits, or means and log standard deviations. The agent computes them,
(..., P), from the core's output by one linear layer and passes them as `numbers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.errors import UsageError


class Head(ABC):
    """A family of distributions over an action space, with `size` = P parameters (`numbers`).

    Attributes:
        size: P.
        count: N, the numbers that make up an action: one for each variable or dimension.
    """

    size: int
    count: int

    @abstractmethod
    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        """Return the negative log-likelihood (...,) of actions in nats, given parameters (..., P).

        A head over bins returns a cross entropy with soft targets instead, also in nats.
        """

    @abstractmethod
    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        """Return the accuracy (...,) of the deterministic action, a float in 0 ... 1, given parameters (..., P)."""

    def entropy(self, numbers: Tensor) -> Tensor | None:
        """Return the entropy (...,) of actions in nats, given parameters (..., P); None if it has no closed form."""
        return None

    def masked(self, numbers: Tensor, allowed: Tensor) -> Tensor:
        """Return the parameters (..., P) of the distribution over allowed actions only.

        Args:
            numbers: parameters (..., P).
            allowed: bool, one for each parameter, as in sb3-contrib's MaskablePPO.

        Raises:
            UsageError: the actions aren't categories, or there is no mask for one of them, or none is allowed.
        """
        raise UsageError(
            "action masks are for Discrete, MultiDiscrete and MultiBinary action spaces; give none here, neither by "
            "an environment's action_masks() nor as 'action_mask' in its infos"
        )

    @abstractmethod
    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the numbers (B, N) of actions for parameters (B, P): indices of categories as int64, floats else.

        The actions are the deterministic ones if `generator` is None, else samples drawn with it. The random numbers of
        a row depend on B and the row's index alone (see `rmt_rl.nn.sampling`). The host doesn't wait for the actions.
        """

    @abstractmethod
    def chosen_loss(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        """Return the negative log-likelihood (...,) in nats of what `choose` returned (..., N), given (..., P).

        It is exact for samples: before bounds clip them, and of the bin that was drawn.
        """

    def divergence(self, numbers: Tensor, others: Tensor) -> Tensor | None:
        """Return KL(numbers || others) (...,) in nats, of distributions with parameters (..., P) each.

        Return None if it has no closed form.
        """
        return None

    @abstractmethod
    def values(self, chosen: NDArray[Any]) -> Any:
        """Return actions, as values (B, ...) of the space, from what `choose` returned."""

    @abstractmethod
    def tensors(self, chosen: Tensor) -> Any:
        """Return what `values` returns as tensors, from what `choose` returned, for graphs; see `graph_dtype`."""

    def act(self, numbers: Tensor, generator: torch.Generator | None) -> Any:
        """Return actions for parameters (B, P) as NumPy values of the space; see `choose`."""
        chosen: NDArray[Any] = self.choose(numbers, generator).cpu().numpy()
        return self.values(chosen)


class Nothing(Head):
    """The distribution over a part of no size, such as a Box (0,), whose only action is empty."""

    size = count = 0

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        return numbers.new_zeros(numbers.shape[:-1])

    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        return numbers.new_ones(numbers.shape[:-1])

    def entropy(self, numbers: Tensor) -> Tensor | None:
        return numbers.new_zeros(numbers.shape[:-1])

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        return no_numbers(numbers)

    def chosen_loss(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        return numbers.new_zeros(numbers.shape[:-1])

    def divergence(self, numbers: Tensor, others: Tensor) -> Tensor | None:
        return numbers.new_zeros(numbers.shape[:-1])

    def values(self, chosen: NDArray[Any]) -> Any:
        shape = self.space.shape or ()
        return np.empty((len(chosen), *shape), self.space.dtype)

    def tensors(self, chosen: Tensor) -> Any:
        shape = self.space.shape or ()
        return chosen.new_zeros((chosen.shape[0], *shape), dtype=graph_dtype(self.space.dtype))


def graph_dtype(dtype: np.dtype[Any] | type[Any] | None) -> torch.dtype:
    """Return the dtype of tensors that hold a space's values in a graph: the space's own, if PyTorch computes with it.

    Instead of uint16, uint32 and uint64 it is int64.
    """
    name = np.dtype(dtype).name
    return torch.int64 if name in ("uint16", "uint32", "uint64") else _DTYPES.get(name, torch.float32)


_DTYPES = {
    "bool": torch.bool,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def no_numbers(numbers: Tensor) -> Tensor:
    """Return the numbers (B, 0) of empty actions. Beside floats or integers, their type changes nothing."""
    return torch.empty(numbers.shape[0], 0, dtype=torch.bool, device=numbers.device)
