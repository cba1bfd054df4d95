"""Actions of several parts: the heads of a Dict's or Tuple's parts, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.nn.heads.base import Head, no_numbers


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

    def entropy(self, numbers: Tensor) -> Tensor | None:
        entropies = [part.entropy(own) for _, part, own in self._each(numbers) if part.size]
        known = [entropy for entropy in entropies if entropy is not None]
        return torch.stack(known).sum(0) if len(known) == len(entropies) else None

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        chosen = [part.choose(own, generator) for _, part, own in self._each(numbers)]
        return torch.cat([no_numbers(numbers), *chosen], 1)

    def chosen_loss(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        each = zip(self._each(numbers), chosen.split(self.counts, -1), strict=True)
        losses = [part.chosen_loss(own, of_part) for (_, part, own), of_part in each if part.size]
        return torch.stack(losses).sum(0)

    def divergence(self, numbers: Tensor, others: Tensor) -> Tensor | None:
        pairs = zip(self._each(numbers), self._each(others), strict=True)
        divergences = [part.divergence(own, other) for (_, part, own), (_, _, other) in pairs if part.size]
        known = [divergence for divergence in divergences if divergence is not None]
        return torch.stack(known).sum(0) if len(known) == len(divergences) else None

    def values(self, chosen: NDArray[Any]) -> Any:
        ends = np.cumsum(self.counts)
        split = np.split(chosen, ends[:-1], 1) if self.counts else []
        actions = {key: part.values(own) for (key, part), own in zip(self.parts.items(), split, strict=True)}
        return actions if self.make is dict else tuple(actions.values())

    def tensors(self, chosen: Tensor) -> Any:
        split = chosen.split(self.counts, 1) if self.counts else ()
        actions = {key: part.tensors(own) for (key, part), own in zip(self.parts.items(), split, strict=True)}
        return actions if self.make is dict else tuple(actions.values())
