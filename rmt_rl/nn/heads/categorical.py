"""Categorical actions: one softmax for each discrete variable of a space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.categories import Categories
from rmt_rl.errors import UsageError
from rmt_rl.nn.heads.base import Head, graph_dtype

MASKED = -1e8
"""The logit of an action that isn't allowed, whose probability is 0 in float32; that of sb3-contrib."""


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

    def entropy(self, numbers: Tensor) -> Tensor | None:
        entropies = [entropy_of(logits) for logits in numbers.split(self.sizes, -1)]
        return torch.stack(entropies).sum(0)

    def masked(self, numbers: Tensor, allowed: Tensor) -> Tensor:
        if allowed.shape != numbers.shape:
            raise UsageError(
                f"an action mask has the shape {tuple(allowed.shape[1:])}; space={self.space} asks for {self.size} "
                "flags, one for each choice"
            )
        for variable in allowed.split(self.sizes, -1):
            if not variable.any(-1).all():
                raise UsageError(f"an action mask allows no action of space={self.space}; mend the environment")
        return numbers.masked_fill(~allowed, MASKED)

    def choose(self, numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        variables = numbers.split(self.sizes, -1)
        return torch.stack([chosen_index(logits, generator) for logits in variables], -1)

    def chosen_loss(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        starts = torch.tensor(self.starts, device=chosen.device)
        return self.loss(numbers, chosen.long() + starts)

    def divergence(self, numbers: Tensor, others: Tensor) -> Tensor | None:
        pairs = zip(numbers.split(self.sizes, -1), others.split(self.sizes, -1), strict=True)
        divergences = [divergence_of(logits, other_logits) for logits, other_logits in pairs]
        return torch.stack(divergences).sum(0)

    def values(self, chosen: NDArray[Any]) -> Any:
        categories = chosen.astype(np.int64) + np.array(self.starts)
        return categories.reshape(len(chosen), *self.shape).astype(self.space.dtype)

    def tensors(self, chosen: Tensor) -> Tensor:
        starts = torch.tensor(self.starts, device=chosen.device)
        categories = chosen.long() + starts
        return categories.reshape(chosen.shape[0], *self.shape).to(graph_dtype(self.space.dtype))


def entropy_of(logits: Tensor) -> Tensor:
    """Return the entropy (...,) in nats of categories with these logits (..., C); -inf is a category without any."""
    log_probabilities = logits.log_softmax(-1)
    terms = log_probabilities.exp() * log_probabilities.clamp(min=torch.finfo(logits.dtype).min)
    return -terms.sum(-1)


def divergence_of(logits: Tensor, others: Tensor) -> Tensor:
    """Return KL(logits || others) (...,) in nats of categories with these logits (..., C)."""
    log_probabilities = logits.log_softmax(-1)
    differences = log_probabilities - others.log_softmax(-1)
    return (log_probabilities.exp() * differences).sum(-1)


def chosen_index(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the index (...,) of the likeliest of the categories (..., C), or of one drawn with the generator.

    The draw is that of `torch.multinomial`, bit for bit, without its checks, for which the host would wait.
    """
    if generator is None:
        return logits.argmax(-1)
    probabilities = logits.float().softmax(-1)
    noise = torch.empty_like(probabilities).exponential_(1, generator=generator)
    return (probabilities / noise).argmax(-1)
