"""Random numbers of sampled actions: those of a whole batch, also where only a part of its rows is computed.

Dimensions: B rows (environments), P logits, N numbers of an action.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rmt_rl.nn.heads import Head


class BatchPart(NamedTuple):
    """Consecutive rows of a larger batch.

    Attributes:
        first: index of the first row in the larger batch.
        size: number of rows.
        whole: number of rows of the larger batch.
    """

    first: int
    size: int
    whole: int

    @property
    def rows(self) -> slice:
        """The rows in the larger batch."""
        return slice(self.first, self.first + self.size)


class Sampler:
    """Draws actions from logits with a generator of its own.

    Attributes:
        seed: seed of the generator; None draws a fresh one.
        part: the larger batch that the rows belong to. They get the random numbers that they would have there. None:
            the rows are a batch of their own.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self.part: BatchPart | None = None
        self._generator: torch.Generator | None = None  # made where the first action is drawn

    def restart(self, seed: int | None) -> None:
        """Begin anew with a seed, or with a fresh one."""
        self.seed = seed
        self._generator = None

    def choose(self, head: Head, logits_BP: Tensor) -> Tensor:
        """Return the numbers (B, N) of sampled actions, see `Head.choose`."""
        if self._generator is None or self._generator.device != logits_BP.device:
            self._generator = _new_generator(logits_BP.device, self.seed)
        if self.part is None:
            return head.choose(logits_BP, self._generator)
        whole = logits_BP.new_zeros(self.part.whole, logits_BP.shape[1])
        whole[self.part.rows] = logits_BP
        return head.choose(whole, self._generator)[self.part.rows]


def _new_generator(device: torch.device, seed: int | None) -> torch.Generator:
    """Return a generator of random numbers with this seed, or with a fresh one."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
