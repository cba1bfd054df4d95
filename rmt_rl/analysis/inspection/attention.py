"""The attention of write tokens: over old memory, the steps of a segment, and the write tokens themselves.

Serves cores with the attributes of `WriteTokens`; for all others there is nothing to record.

Dimensions: B batch elements, K steps of a segment, T tokens of a row, M write tokens, S keys, H heads, E width of a
head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from rmt_rl.data.segment import Segment
from rmt_rl.nn.attention import sdpa
from rmt_rl.nn.decoder import Block
from rmt_rl.recurrence import take_tokens


@dataclass(frozen=True)
class Attention:
    """Attention of one layer's write tokens: shares that sum to 1, the mean over tokens, heads and batch elements."""

    layer: int
    cached: float  # to the layer's cache of earlier segments
    read: float  # to the memory's read tokens
    steps: tuple[float, ...]  # to each step of the segment
    write: float  # to the write tokens themselves


class WriteTokens(Protocol):
    """A core whose `count` memory tokens stand in a row right behind the real ones, to write; others may precede.

    Rows are [read tokens, real tokens, write tokens, padding], as in `rmt_rl.memory.tokens`.
    """

    count: int
    memory_MD: Tensor

    def modules(self) -> Iterator[nn.Module]:
        """Yield the core and all modules inside."""


def has_write_tokens(module: object) -> TypeGuard[WriteTokens]:
    """Return True if a module has the attributes of `WriteTokens`; a module keeps parameters outside its `__dict__`."""
    return hasattr(module, "count") and hasattr(module, "memory_MD")


class Inputs(NamedTuple):
    """The inputs of an attention layer in a core with M write tokens."""

    writes: int  # M
    q_BTHE: Tensor
    k_BSHE: Tensor
    mask_BTS: Tensor | None


@contextmanager
def recorded_attention(core: nn.Module) -> Iterator[list[Inputs]]:
    """Record the inputs of each attention layer inside a core with write tokens, in the order of layers.

    PyTorch's attention stands in for other backends meanwhile: flex has no gradient on a CPU.
    """
    inside, writes = _inside_write_tokens(core)
    recorded: list[Inputs] = []

    def attend_in(block: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if block in inside:
            recorded.append(Inputs(writes, q.detach(), k.detach(), mask))
        return sdpa(q, k, v, mask)

    attends = {}
    for module in core.modules():
        if isinstance(module, Block):
            attends[module] = module.attend
    try:
        for block in attends:
            block.attend = partial(attend_in, block)
        yield recorded
    finally:
        for block, attend in attends.items():
            block.attend = attend


def _inside_write_tokens(core: nn.Module) -> tuple[set[nn.Module], int]:
    """Return the modules around which write tokens are put, and their number."""
    for module in core.modules():
        if has_write_tokens(module):
            return set(module.modules()), module.count
    return set(), 0


def attention_shares(inputs: Inputs, layer: int, segment: Segment, per_step: int) -> Attention:
    """Return the attention of the write tokens, in the batch elements that have steps.

    Args:
        inputs: of the layer.
        layer: its number.
        segment: the segment that was read.
        per_step: tokens of a step.
    """
    _, queries, *_ = inputs.q_BTHE.shape
    _, keys, *_ = inputs.k_BSHE.shape
    tokens = segment.returns_to_go.shape[1] * per_step
    cached = keys - queries
    reads = queries - tokens - inputs.writes
    first_B = reads + segment.lengths * per_step
    places_BM = _write_places(inputs, first_B)
    weights_BS = _weights(inputs, places_BM)
    sizes = (cached, reads, tokens, inputs.writes)
    old_BS, read_BS, steps_BL, _ = weights_BS.split(sizes, 1)
    steps_BK = steps_BL.unflatten(1, (-1, per_step)).sum(2)
    parts = (
        old_BS.sum(1, keepdim=True),
        read_BS.sum(1, keepdim=True),
        steps_BK * segment.mask,
    )
    alive_B = segment.lengths > 0
    whole_B = torch.cat(parts, 1)
    shares = whole_B[alive_B].mean(0).tolist()
    cached_share, read_share, *step_shares = shares
    return Attention(
        layer=layer,
        cached=cached_share,
        read=read_share,
        steps=tuple(step_shares),
        write=1 - sum(shares),
    )


def _write_places(inputs: Inputs, first_B: Tensor) -> Tensor:
    """Return the places (B, M) of the write tokens in their rows."""
    offsets_M = torch.arange(inputs.writes, device=first_B.device)
    return first_B[:, None] + offsets_M


def _weights(inputs: Inputs, places_BM: Tensor) -> Tensor:
    """Return the attention weights (B, S) of the tokens at these places, the mean over them and over heads."""
    _, q_BTHE, k_BSHE, mask_BTS = inputs
    batch_size, keys, _, width = k_BSHE.shape
    if mask_BTS is None:
        keys_S = torch.arange(keys, device=k_BSHE.device)
        allowed_BMS = keys_S <= places_BM[:, :, None]
    else:
        mask_BTS = mask_BTS.expand(batch_size, -1, -1)
        allowed_BMS = take_tokens(mask_BTS, places_BM)
    q_BMHE = take_tokens(q_BTHE, places_BM)
    products_BHMS = torch.einsum("bmhe,bshe->bhms", q_BMHE, k_BSHE)
    scores_BHMS = products_BHMS / math.sqrt(width)
    forbidden_B1MS = ~allowed_BMS[:, None]
    scores_BHMS = scores_BHMS.masked_fill(forbidden_B1MS, -torch.inf)
    weights_BHMS = scores_BHMS.softmax(-1)
    return weights_BHMS.mean((1, 2))
