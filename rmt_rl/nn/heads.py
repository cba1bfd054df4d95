"""Action heads from Gymnasium spaces: parameters computed from the core's output become a distribution over actions.

A head needs P distribution parameters (`size`): logits, or means and log standard deviations. The agent computes them,
(..., P), from the core's output by one linear layer and passes them as `numbers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.categories import Categories, categories
from rmt_rl.errors import UsageError
from rmt_rl.nn.scaling import Scale


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
        """Return the negative log-likelihood (...,) of actions in nats, given parameters (..., P)."""

    @abstractmethod
    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        """Return the accuracy (...,) of the mode, a float in 0 ... 1, given parameters (..., P)."""

    @abstractmethod
    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the numbers (B, N) of actions for parameters (B, P): indices of categories as int64, floats else.

        The actions are the mode if `generator` is None, else samples drawn with it. The host doesn't wait for them.
        """

    @abstractmethod
    def values(self, chosen: NDArray[Any]) -> Any:
        """Return actions, as values (B, ...) of the space, from what `choose` returned."""

    def act(self, numbers: Tensor, generator: torch.Generator | None) -> Any:
        """Return actions for parameters (B, P) as NumPy values of the space; see `choose`."""
        chosen: NDArray[Any] = self.choose(numbers, generator).cpu().numpy()
        return self.values(chosen)


@singledispatch
def head(space: spaces.Space[Any], scales: Any = None) -> Head:
    """Return the head of an action space: Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple of these.

    Args:
        space: the action space.
        scales: a value of the space with a `Scale` or None at every leaf; None scales nothing.

    Raises:
        UsageError: the space is of another kind.
    """
    raise UsageError(
        f"action space={space} has no head; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these"
    )


class Categorical(Head):
    """One softmax for each discrete variable of the space."""

    def __init__(self, space: spaces.Space[Any], variables: Categories) -> None:
        self.space, self.shape = space, space.shape or ()
        self.sizes: list[int] = variables.sizes.tolist()
        self.starts: list[int] = variables.starts.tolist()
        self.size, self.count = sum(self.sizes), len(self.sizes)

    def _parts(self, numbers: Tensor, action: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return logits and index of each variable.

        Padding is zeros, which may lie outside the space, and is clamped into the space.
        """
        lead = numbers.shape[:-1]
        parts = zip(action.long().reshape(*lead, len(self.sizes)).unbind(-1), self.starts, self.sizes, strict=True)
        indices = ((index - start).clamp(0, size - 1) for index, start, size in parts)
        return list(zip(numbers.split(self.sizes, -1), indices, strict=True))

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        losses = [
            F.cross_entropy(logits.flatten(0, -2), index.flatten(), reduction="none").view(index.shape)
            for logits, index in self._parts(numbers, action)
        ]
        return torch.stack(losses).sum(0)

    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        hits = [logits.argmax(-1) == index for logits, index in self._parts(numbers, action)]
        return torch.stack(hits).float().mean(0)

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        variables = numbers.split(self.sizes, -1)
        return torch.stack([_index(logits, generator) for logits in variables], -1)

    def values(self, chosen: NDArray[Any]) -> Any:
        categories = chosen.astype(np.int64) + np.array(self.starts)
        return categories.reshape(len(chosen), *self.shape).astype(self.space.dtype)


def _index(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the index (B,) of the likeliest category, or of one drawn with the generator.

    The draw is that of `torch.multinomial`, bit for bit, without its checks, for which the host would wait.
    """
    if generator is None:
        return logits.argmax(-1)
    probabilities = logits.float().softmax(-1)
    noise = torch.empty_like(probabilities).exponential_(1, generator=generator)
    return (probabilities / noise).argmax(-1)


class Gaussian(Head):
    """An independent normal distribution per dimension: mean and log standard deviation (clamped to -5 ... 2).

    With a scale, the distribution is that of scaled actions: the loss and the accuracy are in their unit.
    """

    def __init__(self, space: spaces.Box, scale: Scale | None = None) -> None:
        self.space, self.count = space, int(np.prod(space.shape))
        self.size = 2 * self.count
        self.scale = scale

    def _targets(self, action: Tensor, like: Tensor) -> Tensor:
        """Return actions (..., *shape), scaled, in the shape and dtype of the means (..., count)."""
        scaled = action if self.scale is None else self.scale(action)
        return scaled.reshape(like.shape).to(like.dtype)

    def _moments(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = numbers.split(self.count, -1)
        return mean, raw.clamp(-5, 2)

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        mean, log_std = self._moments(numbers)
        errors: Tensor = (self._targets(action, mean) - mean) * torch.exp(-log_std)
        return (0.5 * errors**2 + log_std + 0.5 * float(np.log(2 * np.pi))).sum(-1)

    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        """Return the share of dimensions whose mean is less than 0.1 from the action, in the unit of the loss."""
        mean, _ = self._moments(numbers)
        errors: Tensor = (self._targets(action, mean) - mean).abs()
        return (errors < 0.1).float().mean(-1)

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, log_std = self._moments(numbers)
        if generator is not None:
            mean = mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
        means = mean.float().reshape(-1, *self.space.shape)
        unscaled = means if self.scale is None else self.scale.undo(means)
        return unscaled.reshape(len(numbers), self.count)

    def values(self, chosen: NDArray[Any]) -> Any:
        action = chosen.astype(np.float64).reshape(-1, *self.space.shape)
        if np.issubdtype(self.space.dtype, np.integer):
            return _whole(action, self.space)
        limits = np.finfo(str(self.space.dtype))
        bounded = np.clip(action, self.space.low, self.space.high)
        return np.clip(bounded, limits.min, limits.max).astype(self.space.dtype)


def _whole(action: np.ndarray[Any, Any], space: spaces.Box) -> np.ndarray[Any, Any]:
    """Return float64 actions (B, ...) as the nearest integers of a Box.

    float64 lacks most of the largest 64-bit integers. So only actions between the bounds are turned into integers.
    """
    nearest = np.rint(action)
    is_low = nearest <= space.low.astype(np.float64)
    is_high = nearest >= space.high.astype(np.float64)
    inside = np.where(is_low | is_high, 0, nearest).astype(space.dtype)
    return np.select([is_low, is_high], [space.low, space.high], inside).astype(space.dtype)


class Nothing(Head):
    """The distribution over a part of no size, such as a Box (0,), whose only action is empty."""

    size = count = 0

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        return numbers.new_zeros(numbers.shape[:-1])

    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        return numbers.new_ones(numbers.shape[:-1])

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        return _no_numbers(numbers)

    def values(self, chosen: NDArray[Any]) -> Any:
        shape = self.space.shape or ()
        return np.empty((len(chosen), *shape), self.space.dtype)


def _no_numbers(numbers: Tensor) -> Tensor:
    """Return the numbers (B, 0) of empty actions. Beside floats or integers, their type changes nothing."""
    return torch.empty(len(numbers), 0, dtype=torch.bool, device=numbers.device)


class Joint(Head):
    """The heads of a Dict's or Tuple's parts, which are independent given the parameters."""

    def __init__(self, parts: dict[Any, Head], make: type) -> None:
        self.parts, self.make = parts, make
        self.sizes = [part.size for part in parts.values()]
        self.size = sum(self.sizes)
        self.counts = [part.count for part in parts.values()]
        self.count = sum(self.counts)

    def _each(self, numbers: Tensor) -> list[tuple[Any, Head, Tensor]]:
        split = numbers.split(self.sizes, -1)
        return [(key, part, own) for (key, part), own in zip(self.parts.items(), split, strict=True)]

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        losses = [part.loss(own, action[key]) for key, part, own in self._each(numbers) if part.size]
        return torch.stack(losses).sum(0)

    def correct(self, numbers: Tensor, action: Any) -> Tensor:
        accuracies = [part.correct(own, action[key]) for key, part, own in self._each(numbers) if part.size]
        return torch.stack(accuracies).mean(0)

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        chosen = [part.choose(own, generator) for _, part, own in self._each(numbers)]
        return torch.cat([_no_numbers(numbers), *chosen], 1)

    def values(self, chosen: NDArray[Any]) -> Any:
        ends = np.cumsum(self.counts)
        split = np.split(chosen, ends[:-1], 1) if self.counts else []
        actions = {key: part.values(own) for (key, part), own in zip(self.parts.items(), split, strict=True)}
        return actions if self.make is dict else tuple(actions.values())


@head.register(spaces.Box)
@head.register(spaces.Discrete)
@head.register(spaces.MultiBinary)
@head.register(spaces.MultiDiscrete)
def _(
    space: spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete[Any],
    scales: Any = None,
) -> Head:
    if np.prod(space.shape or ()) == 0:
        return Nothing(space)
    variables = categories(space)
    if variables is not None:
        return Categorical(space, variables)
    assert isinstance(space, spaces.Box)
    return Gaussian(space, scales)


@head.register(spaces.Dict)
def _(space: spaces.Dict, scales: Any = None) -> Head:
    parts = {}
    for key in sorted(space):  # sorted: see the encoder of a Dict
        parts[key] = head(space[key], scales and scales[key])
    return Joint(parts, dict)


@head.register(spaces.Tuple)
def _(space: spaces.Tuple[Any], scales: Any = None) -> Head:
    parts = {}
    for index, part in enumerate(space.spaces):
        parts[index] = head(part, scales and scales[index])
    return Joint(parts, tuple)
