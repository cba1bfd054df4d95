"""The pairs that are compared: one of our memories beside the like of one of the two packages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.speed.peer_ours import our_context, our_memory_tokens, our_neural_memory
from experiments.speed.peer_sizes import (
    CONTEXT_SEGMENT,
    MEMORY_SEGMENT,
    TOKEN_SEGMENT,
    Contestant,
    tokens,
    vectors,
)
from experiments.speed.peer_theirs import TheirContext, TheirMemoryTokens, TheirNeural


class Pair(NamedTuple):
    """Two contestants, and the amount of data that they are compared on.

    Attributes:
        ours, theirs: build the contestants.
        data: makes a batch of so many tokens a sequence.
        segment: tokens of a segment.
        training: numbers of segments on which a training step is measured.
        forward: number of segments on which a forward pass is measured.
        generates: whether tokens are made one by one.
    """

    ours: Callable[[], Contestant]
    theirs: Callable[[], Contestant]
    data: Callable[[int], Tensor]
    segment: int
    training: tuple[int, ...] = (1, 4, 16, 64)
    forward: int = 4
    generates: bool = True

    def contestants(self) -> dict[str, Contestant]:
        """Return both, with the same seed."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        return {"ours": self.ours(), "theirs": self.theirs()}


PAIRS = {
    "memory tokens": Pair(
        our_memory_tokens,
        TheirMemoryTokens,
        tokens,
        TOKEN_SEGMENT,
    ),
    "neural memory": Pair(
        our_neural_memory,
        partial(TheirNeural, relearn=False),
        vectors,
        MEMORY_SEGMENT,
    ),
    "neural memory, theirs relearning": Pair(
        our_neural_memory,
        partial(TheirNeural, relearn=True),
        vectors,
        MEMORY_SEGMENT,
        training=(4,),
        generates=False,
    ),
    "memory as context": Pair(
        our_context,
        partial(TheirContext, relearn=False),
        tokens,
        CONTEXT_SEGMENT,
        training=(8,),
        forward=8,
    ),
    "memory as context, theirs relearning": Pair(
        our_context,
        partial(TheirContext, relearn=True),
        tokens,
        CONTEXT_SEGMENT,
        training=(8,),
        forward=8,
        generates=False,
    ),
}
