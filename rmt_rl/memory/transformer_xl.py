"""Transformer-XL cache: a layer also attends to hidden states of the n tokens before the segment.

Transformer-XL (arXiv 1901.02860), equation of section 3.2: keys and values come from [SG(cache), segment], queries
from the segment. Gradient rule: stopped (SG) at the segment's start, so a cache carries information and no gradient.
Positions are rotary and relative: a cached token stands at its true distance before the segment, for a lane with
a cache that isn't full yet too. Inside `MemoryTokens` the read and write tokens are cached like all others.

Dimensions: B lanes, L tokens of a segment, N tokens of the cache, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from rmt_rl.nn.attention import causal_mask
from rmt_rl.nn.decoder import Block, DecoderConfig, KeyValues
from rmt_rl.recurrence import put_tokens_, take_tokens


class Hidden(NamedTuple):
    """The layer's last inputs (B, N, D), the oldest first, and how many of them are real (they come first)."""

    hidden_BND: Tensor
    count_B: Tensor


class OpenHidden(NamedTuple):
    """The cache before the segment, followed by the segment's inputs; and keys and values of all."""

    hidden_BND: Tensor
    attended: KeyValues


class TransformerXLLayer(Block[Hidden, OpenHidden]):
    """A decoder layer with a cache of `cached` hidden states."""

    def __init__(self, config: DecoderConfig, cached: int) -> None:
        super().__init__(config)
        self.cached = cached

    def initial_state(self, batch_size: int) -> Hidden:
        weight = self.to_values.weight
        hidden = weight.new_zeros(batch_size, self.cached, self.width)
        return Hidden(hidden, torch.zeros(batch_size, dtype=torch.long, device=weight.device))

    def forward(self, x_BLD: Tensor, state: Hidden, lengths_B: Tensor | None = None) -> tuple[Tensor, Hidden]:
        lanes, length, _ = x_BLD.shape
        hidden, count_B = state.hidden_BND.detach().to(x_BLD.dtype), state.count_B
        # Places count from the oldest cached token: cache 0 ... count-1, segment count ... count+L-1.
        own = torch.arange(length, device=x_BLD.device)
        old = torch.arange(self.cached, device=x_BLD.device).expand(lanes, -1)
        places = torch.cat((old, count_B[:, None] + own), 1)
        row = torch.cat((hidden, x_BLD), 1)
        q, k, v = self.project(row, self.rotations(self.cached + length)[places])
        seen_old = (old < count_B[:, None])[:, None].expand(-1, length, -1)
        mask = torch.cat((seen_old, causal_mask(own[None], length).expand(lanes, -1, -1)), 2)
        y_BLD = self.finish(x_BLD, self.attend(q[:, self.cached :], k, v, mask))
        added_B = torch.full_like(count_B, length) if lengths_B is None else lengths_B
        return y_BLD, self._keep(row.detach(), count_B, added_B)

    def _keep(self, row: Tensor, count_B: Tensor, added_B: Tensor) -> Hidden:
        """The last N real tokens of a row of [N places of cache, segment]."""
        total_B = count_B + added_B
        places = (total_B - self.cached).clamp(min=0)[:, None] + torch.arange(self.cached, device=row.device)
        places = torch.where(places < count_B[:, None], places, places - count_B[:, None] + self.cached)
        kept = take_tokens(row, places.clamp(max=row.shape[1] - 1))
        return Hidden(kept, total_B.clamp(max=self.cached))

    def begin(self, state: Hidden, batch_size: int, capacity: int) -> OpenHidden:
        cache = self.open(batch_size, self.cached + capacity)
        places = torch.arange(self.cached, device=state.count_B.device).expand(batch_size, -1)
        _, k, v = self.project(state.hidden_BND, self.rotations(self.cached)[places])
        put_tokens_(cache.keys_BCHE, places, k)
        put_tokens_(cache.values_BCHE, places, v)
        room = state.hidden_BND.new_zeros(batch_size, capacity, self.width)
        return OpenHidden(torch.cat((state.hidden_BND, room), 1), cache._replace(count_B=state.count_B.clone()))

    def step(self, x_BTD: Tensor, cache: OpenHidden, lengths_B: Tensor | None = None) -> tuple[Tensor, OpenHidden]:
        places = cache.attended.count_B[:, None] + torch.arange(x_BTD.shape[1], device=x_BTD.device)
        hidden = put_tokens_(cache.hidden_BND, places, x_BTD)
        y_BTD, attended = self.extend(x_BTD, cache.attended, lengths_B)
        return y_BTD, OpenHidden(hidden, attended)

    def end(self, cache: OpenHidden) -> Hidden:
        count_B = cache.attended.count_B
        places = (count_B - self.cached).clamp(min=0)[:, None] + torch.arange(self.cached, device=count_B.device)
        return Hidden(take_tokens(cache.hidden_BND, places), count_B.clamp(max=self.cached))

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(DecoderConfig(width=width, heads=2, dropout=0.1), cached=4)
        yield cls(DecoderConfig(width=width, heads=2), cached=20)
