"""Memory tokens for an encoder: the tokens before the segment are both read and written (RMT).

This is RMT in the form that arXiv 2304.11062 (section 3) gives to BERT. Every token of [M_n; X] sees every other token,
and the outputs at the places of the memory are the new memory M_{n+1}. A segment's tokens thus see later tokens of
their own segment, but nothing of later segments.

Dimensions: B batch elements, L tokens of a segment, M memory tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, cast

import torch
from torch import Tensor

from rmt_rl.memory.tokens import LearnedMemory, MemoryState, MemoryTokens
from rmt_rl.memory.valve import VALVES, ValveName
from rmt_rl.nn.decoder import Block, DecoderConfig, decoder
from rmt_rl.nn.token_core import Core, Layers, TokenCore
from rmt_rl.recurrence import OpenSegment


class EncoderLayer(Block[tuple[()], OpenSegment]):
    """A layer in which all real tokens of a segment see each other. Its state is empty."""

    causal = False
    lasting = False

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, x_BLD: Tensor, state: tuple[()], lengths_B: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        length = x_BLD.shape[1]
        q, k, v = self.project(x_BLD, self.rotations(max(1, length))[:length])
        places = torch.arange(length, device=x_BLD.device)
        real_BL = places[None] < (length if lengths_B is None else lengths_B[:, None].clamp(min=1))
        return self.finish(x_BLD, self.attend(q, k, v, real_BL[:, None].expand(-1, length, -1))), ()

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(DecoderConfig(width=width, heads=2, dropout=0.2))


class EncoderMemoryTokens(LearnedMemory[OpenSegment]):
    """Wrap an encoder with M memory tokens; see `LearnedMemory`."""

    causal = False

    def forward(self, x_BLD: Tensor, state: MemoryState, lengths_B: Tensor | None = None) -> tuple[Tensor, MemoryState]:
        read_BMD = state.memory_BMD.to(x_BLD.dtype)
        real_B = None if lengths_B is None else lengths_B + self.count
        y, inner = self.inner(torch.cat((read_BMD, x_BLD), 1), state.inner, real_B)
        return y[:, self.count :], MemoryState(*self.join(state, y[:, : self.count]), inner)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, dropout=0.1)
        yield cls(decoder(config, [EncoderLayer(config) for _ in range(2)]), 3)
        yield cls(decoder(config, [EncoderLayer(config) for _ in range(2)]), 3, "lstm")


def _token_core(layers: Layers) -> Core:
    kind = MemoryTokens if layers.causal else EncoderMemoryTokens
    return kind(layers.build_stack(), layers.memory_tokens, cast("ValveName", layers.valve))


TOKEN_CORES = {  # of both kinds of memory tokens, since this file knows both
    "tokens": TokenCore(
        _token_core,
        needs_memory_tokens=True,
        valves=tuple(VALVES),
        encoder=True,
        xl_memories=True,
        streams=True,
        value_residual=True,
    )
}
