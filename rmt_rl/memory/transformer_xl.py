"""Transformer-XL cache (arXiv 1901.02860): a layer also attends to the n tokens before the segment.

By the equation of section 3.2, keys and values come from [SG(cache), segment] and queries from the segment. Positions
are rotary and relative: a cached token stands at its true distance before the segment, even if the cache of its batch
element isn't full yet. Inside `MemoryTokens`, the read and write tokens are cached like all others.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, N tokens of the cache, D width (2HE for a
token cached as keys and values), H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt_rl.nn.attention import causal_mask, rotate
from rmt_rl.nn.decoder import Block, DecoderConfig, KeyValues
from rmt_rl.recurrence import consecutive_places, only_first, put_tokens_, take_tokens

CacheName = Literal["hidden", "keys_values"]
RecurrenceName = Literal["ordinary", "enhanced"]


class Hidden(NamedTuple):
    """Cache entries of the last tokens (B, N, D), the oldest first, then zeros, and the number of real tokens (B)."""

    hidden_BND: Tensor
    count_B: Tensor


class OpenHidden(NamedTuple):
    """The cache of an open segment: the entries from before, then the segment's, and the keys and values of all."""

    hidden_BND: Tensor
    attended: KeyValues


class TransformerXLLayer(Block[Hidden, OpenHidden]):
    """A decoder layer with a cache of `cached` tokens.

    Args:
        config: sizes.
        cached: N, the number of tokens before the segment that are kept.
        cache: `hidden` keeps hidden states and recomputes keys and values in each segment, so that the cache trains
            their weights too. `keys_values` keeps keys (not rotated yet, because their distance grows) and values as
            they were first computed. The outputs are the same, with less work if N is large.
        stop_gradient: True is the paper's SG: the cache carries information and no gradient. False lets the gradient
            go as far back as the training run asks for.
        recurrence: `ordinary` keeps the layer's inputs. Information then moves up one layer with each segment, and the
            reach is N tokens per layer. `enhanced` keeps the layer's outputs (ERNIE-Doc, arXiv 2012.15688, section
            3.3). The next segment's cache then already holds what this segment has read from its own cache, and the
            reach has no bound. The information in an output then depends on where segments begin.
    """

    def __init__(
        self,
        config: DecoderConfig,
        cached: int,
        cache: CacheName = "hidden",
        stop_gradient: bool = True,
        recurrence: RecurrenceName = "ordinary",
    ) -> None:
        super().__init__(config)
        self.cached, self.stop_gradient = cached, stop_gradient
        self.keeps_keys_values, self.keeps_outputs = cache == "keys_values", recurrence == "enhanced"
        self.lasting = self.keeps_outputs

    def initial_state(self, batch_size: int) -> Hidden:
        weight = self.to_values.weight
        hidden = weight.new_zeros(batch_size, self.cached, 2 * len(weight) if self.keeps_keys_values else self.width)
        return Hidden(hidden, torch.zeros(batch_size, dtype=torch.long, device=weight.device))

    def forward(self, x_BLD: Tensor, state: Hidden, lengths_B: Tensor | None = None) -> tuple[Tensor, Hidden]:
        lanes, length, _ = x_BLD.shape
        before, count_B = self._carried(state), state.count_B
        # Places count from the oldest cached token: cache 0 ... count-1, segment count ... count+L-1.
        own = torch.arange(length, device=x_BLD.device)
        old = torch.arange(self.cached, device=x_BLD.device).expand(lanes, -1)
        places = torch.cat((old, count_B[:, None] + own), 1)
        turns = self.rotations(self.cached + length)[places]
        row = self._joined(before, x_BLD)
        keys, values = self.recall(row)
        queries = rotate(self._queries(x_BLD), turns[:, self.cached :])
        seen_old = (old < count_B[:, None])[:, None].expand(-1, length, -1)
        mask = torch.cat((seen_old, causal_mask(own[None], length).expand(lanes, -1, -1)), 2)
        y_BLD = self.finish(x_BLD, self.attend(queries, rotate(keys, turns), values, mask))
        if self.keeps_outputs:
            row = self._joined(before, y_BLD)
        added_B = torch.full_like(count_B, length) if lengths_B is None else lengths_B
        return y_BLD, self._keep(row, count_B, added_B)

    def _carried(self, state: Hidden) -> Tensor:
        """Return the cache entries of earlier segments, with gradient or without."""
        return state.hidden_BND.detach() if self.stop_gradient else state.hidden_BND

    def remember(self, tokens_BLD: Tensor) -> Tensor:
        """Return the cache entries (B, L, D) of these inputs (or outputs) of the layer."""
        return self._keys_values(tokens_BLD) if self.keeps_keys_values else tokens_BLD

    def recall(self, row_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys, not rotated to their places yet, and values of the cache entries, (B, N, H, E) each."""
        both = row_BND if self.keeps_keys_values else self._keys_values(row_BND)
        keys, values = both.unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        return keys, values

    def _queries(self, x_BLD: Tensor) -> Tensor:
        weight = self.to_queries_keys.weight.chunk(2)[0]
        queries: Tensor = F.linear(self.attention_norm(x_BLD), weight).unflatten(-1, (self.heads, self.head_width))
        return queries

    def _keys_values(self, x_BLD: Tensor) -> Tensor:
        weight = torch.cat((self.to_queries_keys.weight.chunk(2)[1], self.to_values.weight))
        both: Tensor = F.linear(self.attention_norm(x_BLD), weight)
        return both

    def _joined(self, before_BND: Tensor, tokens_BLD: Tensor) -> Tensor:
        added = self.remember(tokens_BLD)
        return torch.cat((before_BND.to(added.dtype), added), 1)

    def _keep(self, row: Tensor, count_B: Tensor, added_B: Tensor) -> Hidden:
        """Return the last N real tokens of a row [N places of cache, segment]."""
        total_B = count_B + added_B
        places = consecutive_places((total_B - self.cached).clamp(min=0), self.cached)
        places = torch.where(places < count_B[:, None], places, places - count_B[:, None] + self.cached)
        kept_B = total_B.clamp(max=self.cached)
        return Hidden(only_first(take_tokens(row, places.clamp(max=row.shape[1] - 1)), kept_B), kept_B)

    def begin(self, state: Hidden, batch_size: int, capacity: int) -> OpenHidden:
        cache, before = self.open(batch_size, self.cached + capacity), self._carried(state)
        keys, values = self.recall(before)
        cache.keys_BCHE[:, : self.cached] = rotate(keys, self.rotations(self.cached)[: self.cached])
        cache.values_BCHE[:, : self.cached] = values
        room = before.new_zeros(batch_size, capacity, before.shape[-1])
        return OpenHidden(torch.cat((before, room), 1), cache._replace(count_B=state.count_B.clone()))

    def step(self, x_BTD: Tensor, cache: OpenHidden, lengths_B: Tensor | None = None) -> tuple[Tensor, OpenHidden]:
        places = consecutive_places(cache.attended.count_B, x_BTD.shape[1])
        y_BTD, attended = self.extend(x_BTD, cache.attended, lengths_B)
        added = self.remember(y_BTD if self.keeps_outputs else x_BTD)
        return y_BTD, OpenHidden(put_tokens_(cache.hidden_BND, places, added), attended)

    def end(self, cache: OpenHidden) -> Hidden:
        count_B = cache.attended.count_B
        places = consecutive_places((count_B - self.cached).clamp(min=0), self.cached)
        kept_B = count_B.clamp(max=self.cached)
        return Hidden(only_first(take_tokens(cache.hidden_BND, places), kept_B), kept_B)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, dropout=0.1)
        yield cls(config, cached=4)
        yield cls(config, cached=4, cache="keys_values")
        yield cls(config, cached=4, stop_gradient=False)
        yield cls(config, cached=8, cache="keys_values", stop_gradient=False)
        yield cls(config, cached=4, recurrence="enhanced")
        yield cls(config, cached=4, cache="keys_values", stop_gradient=False, recurrence="enhanced")
        yield cls(DecoderConfig(width=width, heads=2), cached=20)
