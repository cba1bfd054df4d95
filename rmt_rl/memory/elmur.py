"""External memory slots in each layer: tokens read them, each segment rewrites the least recently used (ELMUR).

ELMUR (arXiv 2510.07151), section 3 and algorithms 1 and 2. Each layer owns S slots. Between self-attention and the
feed-forward net, the tokens read the slots by cross-attention (mem2tok). At the end of a segment, one slot reads the
layer's outputs by cross-attention (tok2mem), which gives the slot's candidate. The candidate replaces an empty slot and
is blended into a written one. Every segment writes the slot that was written the longest ago. Only this slot's
candidate is computed, because the others would be discarded.

Differences from the paper:

- The tokens' path is pre-norm, as in all decoder layers here.
- The initial values of the slots are learned.
- Reading and writing have separate bias tables.
- The feed-forward nets are plain or gated ones. The paper's ablation finds no loss.
- Nothing is detached between segments, because gradient depth is the training run's choice.

Time is relative: each slot carries its age, the number of tokens between its writing and the open segment. Slots are
written in turn, so no age exceeds S segments, however long the episode.

Dimensions: B batch elements, L tokens of a segment, T queries, K keys, C capacity of a cache, S slots, D width,
H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl.nn.decoder import Block, DecoderConfig, KeyValues, feed_forward
from rmt_rl.recurrence import clone, consecutive_places, put_tokens_, take_tokens

NEVER = 1 << 40  # the ages of slots that were never written start from here


class Slots(NamedTuple):
    """A layer's slots (B, S, D) and their ages (B, S; int64), the tokens since each slot was written."""

    slots_BSD: Tensor
    ages_BS: Tensor


class OpenSlots(NamedTuple):
    """The cache of an open segment.

    It holds the memory before the segment, the keys and values of that memory, the segment's outputs, and the cache of
    self-attention.
    """

    memory: Slots
    keys_BHSE: Tensor
    values_BHSE: Tensor
    outputs_BCD: Tensor
    attended: KeyValues


class TimedAttention(nn.Module):
    """Cross-attention with a learned bias for the time between query and key (section 3.2, "Relative bias").

    logits = q k / sqrt(E) + bias[head, min(distance, distances - 1)]. The bias table has `distances` rows.
    """

    def __init__(self, width: int, heads: int, head_width: int, distances: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.to_queries = nn.Linear(width, heads * head_width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.from_heads = nn.Linear(heads * head_width, width, bias=False)
        self.bias = nn.Embedding(distances, heads, _weight=torch.zeros(distances, heads))

    def keys_values(self, x_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, H, K, E)."""
        keys, values = self._heads(self.to_keys_values(x_BKD)).chunk(2, 1)
        return keys, values

    def forward(
        self,
        x_BTD: Tensor,
        keys_BHKE: Tensor,
        values_BHKE: Tensor,
        distances_BTK: Tensor,
        mask_B1K: Tensor | None = None,
    ) -> Tensor:
        """Return the attention's output (B, T, D) for the queries of x.

        `distances_BTK` (int64, >= 0) is the time between queries and keys. `mask_B1K` True = may attend.
        """
        queries = self._heads(self.to_queries(x_BTD))
        bias_BHTK = self.bias(distances_BTK.clamp(max=self.bias.num_embeddings - 1)).permute(0, 3, 1, 2)
        if mask_B1K is not None:
            bias_BHTK = bias_BHTK.masked_fill(~mask_B1K[:, None], -torch.inf)
        keys, values, bias_BHTK = (part.to(queries.dtype) for part in (keys_BHKE, values_BHKE, bias_BHTK))
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias_BHTK)
        heads_side_by_side = torch.cat(attended.unbind(1), -1)  # a view of the transposed tensor can't be exported
        read: Tensor = self.from_heads(heads_side_by_side)
        return read

    def _heads(self, x_BTx: Tensor) -> Tensor:
        heads: Tensor = x_BTx.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        return heads


class ELMURLayer(Block[Slots, OpenSlots]):
    """A decoder layer with an external memory.

    Args:
        config: sizes; heads, hidden width and dropout are those of the memory's paths too.
        slots: S, the number of slots.
        blend: lambda in (0, 1], the weight of the new content when a written slot is rewritten.
        distances: the number of rows of the bias tables; larger distances use the last row.
    """

    def __init__(self, config: DecoderConfig, slots: int, blend: float, distances: int = 512) -> None:
        super().__init__(config)
        self.blend = blend
        # Random, not zero: equal slots would be read alike.
        self.slots_SD = nn.Parameter(torch.randn(slots, config.width))
        self.read_norm, self.token_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.read = TimedAttention(config.width, self.heads, self.head_width, distances)
        self.write = TimedAttention(config.width, self.heads, self.head_width, distances)
        self.written_norm, self.slot_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.slot_feed_forward = nn.Sequential(*feed_forward(config))

    def initial_state(self, batch_size: int) -> Slots:
        """Return empty slots. The first counts as the oldest, so slots are filled in order."""
        count = len(self.slots_SD)
        ages = NEVER + torch.arange(count, 0, -1, device=self.slots_SD.device)
        return Slots(self.slots_SD.expand(batch_size, -1, -1), ages.expand(batch_size, -1))

    def forward(self, x_BLD: Tensor, state: Slots, lengths_B: Tensor | None = None) -> tuple[Tensor, Slots]:
        lanes, length, _ = x_BLD.shape
        q, k, v = self.project(x_BLD, self.rotations(length)[:length])
        x_BLD = self.finish(x_BLD, self.attend(q, k, v, None))
        places = torch.arange(length, device=x_BLD.device).expand(lanes, -1)
        y_BLD = self._recall(x_BLD, places, state.ages_BS, *self.read.keys_values(state.slots_BSD))
        lengths_B = torch.full_like(state.ages_BS[:, 0], length) if lengths_B is None else lengths_B
        return y_BLD, self._store(state, y_BLD, lengths_B)

    def finish(self, x_BLD: Tensor, attended_BLHE: Tensor) -> Tensor:
        """Join only the self-attention branch to the stream: the memory is read before the feed-forward net."""
        return self.add_attended(x_BLD, attended_BLHE)

    def _recall(self, x_BTD: Tensor, places_BT: Tensor, ages_BS: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Read the slots (mem2tok) and finish the layer: algorithm 1, tokens' path."""
        distances_BTS = places_BT[:, :, None] + ages_BS[:, None]
        return self.feed(x_BTD + self.dropout(self.read(self.read_norm(x_BTD), keys, values, distances_BTS)))

    def _store(self, memory: Slots, y_BLD: Tensor, lengths_B: Tensor) -> Slots:
        """Write the oldest slot from the first `lengths_B` outputs: algorithm 2.

        A batch element without tokens keeps its memory.
        """
        slots_BSD, ages_BS = memory
        if not y_BLD.shape[1]:
            return memory
        oldest_B1 = ages_BS.argmax(1, keepdim=True)
        old_B1D, age_B1 = take_tokens(slots_BSD, oldest_B1), ages_BS.gather(1, oldest_B1)
        candidate_B1D = self._candidate(old_B1D, age_B1, y_BLD, lengths_B)
        blended_B1D = old_B1D + self.blend * (candidate_B1D - old_B1D)
        new_B1D = torch.where(age_B1[:, :, None] >= NEVER, candidate_B1D, blended_B1D)
        chosen_BS = torch.arange(ages_BS.shape[1], device=ages_BS.device) == oldest_B1
        chosen_BS = chosen_BS & (lengths_B > 0)[:, None]
        ages_BS = (ages_BS + lengths_B[:, None]).masked_fill(chosen_BS, 0)
        return Slots(torch.where(chosen_BS[:, :, None], new_B1D, slots_BSD), ages_BS)

    def _candidate(self, slot_B1D: Tensor, age_B1: Tensor, y_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return a slot's new content (tok2mem): algorithm 1, memory's path, with a norm after each residual branch."""
        places_1L = torch.arange(y_BLD.shape[1], device=y_BLD.device)[None]
        # A batch element without tokens attends to one padding token, because a softmax over nothing is NaN. Its
        # candidate isn't written.
        mask_B1L = (places_1L < lengths_B.clamp(min=1)[:, None])[:, None]
        distances_B1L = (age_B1 + places_1L)[:, None]
        asked = self.write(slot_B1D, *self.write.keys_values(self.token_norm(y_BLD)), distances_B1L, mask_B1L)
        written_B1D = self.written_norm(slot_B1D + self.dropout(asked))
        candidate: Tensor = self.slot_norm(written_B1D + self.dropout(self.slot_feed_forward(written_B1D)))
        return candidate

    def begin(self, state: Slots, batch_size: int, capacity: int) -> OpenSlots:
        outputs = self.slots_SD.new_zeros(batch_size, capacity, self.width)
        keys, values = self.read.keys_values(state.slots_BSD)
        return OpenSlots(clone(state), keys, values, outputs, self.open(batch_size, capacity))

    def step(self, x_BTD: Tensor, cache: OpenSlots, lengths_B: Tensor | None = None) -> tuple[Tensor, OpenSlots]:
        places_BT = consecutive_places(cache.attended.count_B, x_BTD.shape[1])
        x_BTD, attended = self.extend(x_BTD, cache.attended, lengths_B)
        y_BTD = self._recall(x_BTD, places_BT, cache.memory.ages_BS, cache.keys_BHSE, cache.values_BHSE)
        outputs = put_tokens_(cache.outputs_BCD, places_BT, y_BTD)
        return y_BTD, cache._replace(outputs_BCD=outputs, attended=attended)

    def end(self, cache: OpenSlots) -> Slots:
        return self._store(cache.memory, cache.outputs_BCD, cache.attended.count_B)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(DecoderConfig(width=width, heads=2, dropout=0.1), slots=3, blend=0.8, distances=16)
        yield cls(DecoderConfig(width=width, heads=2, feed_forward="geglu", rotary=False), slots=1, blend=0.5)
