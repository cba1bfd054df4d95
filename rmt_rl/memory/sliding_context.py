"""A sliding context, not a memory: the last tokens before a segment are read again (Decision Transformer).

Decision Transformer (arXiv 2106.01345) sees the last C steps and nothing before them. Here the state is the raw tokens
before the segment, and the inner core runs over [state, segment] with positions that start at the oldest token. The
view slides by one segment at a time: it holds `context` tokens at a segment's start and `context` + L at its end.
Acting stays O(1) per step. With segments of one step, this is exactly Decision Transformer's sliding window.

Dimensions: B batch elements, L tokens of a segment, N tokens of context, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.recurrence import (
    SegmentRecurrent,
    Tree,
    added_tokens,
    consecutive_places,
    joined,
    only_first,
    put_tokens_,
    take_tokens,
    used_places,
)


class Context(NamedTuple):
    """The last tokens (B, N, D), the oldest first, followed by zeros, and the number of real tokens (B)."""

    tokens_BND: Tensor
    count_B: Tensor


class OpenContext(NamedTuple):
    """The cache of an open segment: all tokens in view, their number, and the inner core's cache of the same tokens."""

    tokens_BND: Tensor
    count_B: Tensor
    inner: Tree


class SlidingContext(SegmentRecurrent[Context, OpenContext]):
    """Let a stateless causal core also see `context` tokens before the segment."""

    lasting = False

    def __init__(self, inner: SegmentRecurrent[Any, Any], context: int) -> None:
        super().__init__()
        self.inner, self.context, self.width = inner, context, inner.width

    def initial_state(self, batch_size: int) -> Context:
        weight = next(self.parameters())
        tokens = weight.new_zeros(batch_size, self.context, self.width)
        return Context(tokens, torch.zeros(batch_size, dtype=torch.long, device=weight.device))

    def forward(self, x_BLD: Tensor, state: Context, lengths_B: Tensor | None = None) -> tuple[Tensor, Context]:
        lanes, length, _ = x_BLD.shape
        row = joined(state.tokens_BND, state.count_B, x_BLD)
        total_B = state.count_B + added_tokens(length, lengths_B)
        y, _ = self.inner(row, self.inner.initial_state(lanes), total_B)
        places = consecutive_places(state.count_B, length)
        return take_tokens(y, places), self._keep(row, total_B)

    def _keep(self, row: Tensor, total_B: Tensor) -> Context:
        """Return the last N of each batch element's `total_B` tokens."""
        places = consecutive_places((total_B - self.context).clamp(min=0), self.context)
        kept_B = total_B.clamp(max=self.context)
        return Context(only_first(take_tokens(row, places.clamp(max=row.shape[1] - 1)), kept_B), kept_B)

    def begin(self, state: Context, batch_size: int, capacity: int) -> OpenContext:
        inner = self.inner.begin(self.inner.initial_state(batch_size), batch_size, self.context + capacity)
        if used_places(state.count_B - 1, self.context):
            _, inner = self.inner.step(state.tokens_BND, inner, state.count_B)
        room = state.tokens_BND.new_zeros(batch_size, capacity, self.width)
        return OpenContext(torch.cat((state.tokens_BND, room), 1), state.count_B.clone(), inner)

    def step(self, x_BTD: Tensor, cache: OpenContext, lengths_B: Tensor | None = None) -> tuple[Tensor, OpenContext]:
        tokens, count_B, inner = cache
        tokens = put_tokens_(tokens, consecutive_places(count_B, x_BTD.shape[1]), x_BTD)
        y_BTD, inner = self.inner.step(x_BTD, inner, lengths_B)
        return y_BTD, OpenContext(tokens, count_B + added_tokens(x_BTD.shape[1], lengths_B), inner)

    def end(self, cache: OpenContext) -> Context:
        return self._keep(cache.tokens_BND, cache.count_B)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2)
        for context in (3, 20):
            yield cls(decoder(config, [DecoderLayer(config) for _ in range(2)]), context)
