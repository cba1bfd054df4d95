"""The sizes at which memories are compared, and the interface of a contestant.

Dimensions: B sequences of a batch, L tokens of a row of segments, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, BATCH = 256, 128, 4
HEADS, HEAD_WIDTH = 4, 32
TOKEN_LAYERS, MEMORY_TOKENS, TOKEN_SEGMENT = 4, 16, 256
CHUNK, DEPTH, HIDDEN_FACTOR, MEMORY_SEGMENT = 32, 2, 4.0, 256  # of the neural memory alone
CONTEXT_LAYERS, PERSISTENT, CONTEXT_SEGMENT = 2, 4, 128

Generate = Callable[[int], None]


class Contestant(ABC, nn.Module):
    """A model with a memory, by everything that is measured of it.

    Attributes:
        gradients: the ways of backpropagation that it has.
    """

    gradients: tuple[str, ...] = ("full",)

    @abstractmethod
    def backward(self, data: Tensor, gradient: str) -> None:
        """Run forward and backward over the whole row; leave the gradients in the parameters."""

    @abstractmethod
    def look(self, data: Tensor) -> Tensor:
        """Return the outputs for the whole row."""

    @abstractmethod
    def ways(self) -> dict[str, Generate]:
        """Return its ways to generate token by token, by name: each makes so many tokens of one sequence."""


def tokens(length: int) -> Tensor:
    """Return token ids (B, length + 1): the last is only a target."""
    return torch.randint(VOCABULARY, (BATCH, length + 1))


def vectors(length: int) -> Tensor:
    """Return vectors (B, length, D)."""
    return torch.randn(BATCH, length, WIDTH)
