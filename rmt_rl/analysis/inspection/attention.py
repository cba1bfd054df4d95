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
from typing import NamedTuple, Protocol, runtime_checkable

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


@runtime_checkable
class WriteTokens(Protocol):
    """A core whose `count` memory tokens stand in a row right behind the real ones, to write; others may precede.

    Rows are [read tokens, real tokens, write tokens, padding], as in `rmt_rl.memory.tokens`.
    """

    count: int
    memory_MD: Tensor


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

    blocks = [module for module in core.modules() if isinstance(module, Block)]
    before = [block.attend for block in blocks]
    try:
        for block in blocks:
            block.attend = partial(attend_in, block)
        yield recorded
    finally:
        for block, attend in zip(blocks, before, strict=True):
            block.attend = attend


def _inside_write_tokens(core: nn.Module) -> tuple[set[nn.Module], int]:
    """Return the modules around which write tokens are put, and their number."""
    for module in core.modules():
        if isinstance(module, WriteTokens):
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
    queries, keys = inputs.q_BTHE.shape[1], inputs.k_BSHE.shape[1]
    tokens = segment.returns_to_go.shape[1] * per_step
    cached = keys - queries
    reads = queries - tokens - inputs.writes
    places_BM = _write_places(inputs, reads + segment.lengths * per_step)
    weights_BS = _weights(inputs, places_BM)
    old_BS = weights_BS[:, :cached]
    read_BS = weights_BS[:, cached : cached + reads]
    steps_BL = weights_BS[:, cached + reads :][:, :tokens]
    steps_BK = steps_BL.unflatten(1, (-1, per_step)).sum(2)
    parts = (
        old_BS.sum(1, keepdim=True),
        read_BS.sum(1, keepdim=True),
        steps_BK * segment.mask,
    )
    alive_B = segment.lengths > 0
    shares = torch.cat(parts, 1)[alive_B].mean(0).tolist()
    return Attention(
        layer=layer,
        cached=shares[0],
        read=shares[1],
        steps=tuple(shares[2:]),
        write=1 - sum(shares),
    )


def _write_places(inputs: Inputs, first_B: Tensor) -> Tensor:
    """Return the places (B, M) of the write tokens in their rows."""
    return first_B[:, None] + torch.arange(inputs.writes, device=first_B.device)


def _weights(inputs: Inputs, places_BM: Tensor) -> Tensor:
    """Return the attention weights (B, S) of the tokens at these places, the mean over them and over heads."""
    q_BTHE, k_BSHE, mask_BTS = inputs.q_BTHE, inputs.k_BSHE, inputs.mask_BTS
    if mask_BTS is None:
        keys_S = torch.arange(k_BSHE.shape[1], device=q_BTHE.device)
        allowed_BMS = keys_S <= places_BM[:, :, None]
    else:
        allowed_BMS = take_tokens(mask_BTS.expand(len(q_BTHE), -1, -1), places_BM)
    q_BMHE = take_tokens(q_BTHE, places_BM)
    scores_BHMS = torch.einsum("bmhe,bshe->bhms", q_BMHE, k_BSHE) / math.sqrt(q_BTHE.shape[-1])
    scores_BHMS = scores_BHMS.masked_fill(~allowed_BMS[:, None], -torch.inf)
    return scores_BHMS.softmax(-1).mean((1, 2))
