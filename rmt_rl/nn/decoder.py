"""A pre-norm decoder layer with rotary positions inside the segment, and the decoder made of such layers.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, C capacity of a cache, D width, H heads,
E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from rmt_rl.config import Frozen
from rmt_rl.nn.attention import Backend, backend, causal_mask, rotary_table, rotate, standing
from rmt_rl.recurrence import (
    Pointwise,
    SegmentRecurrent,
    Stack,
    Tree,
    added_tokens,
    consecutive_places,
    put_tokens_,
    used_places,
)

FeedForwardName = Literal["gelu", "geglu"]


class DecoderConfig(Frozen):
    """Size and shape of a decoder."""

    layers: int = Field(2, ge=1, description="number of decoder layers")
    width: int = Field(64, ge=2, description="width of a token")
    heads: int = Field(4, ge=1, description="number of attention heads")
    head_width: int | None = Field(
        None, ge=2, multiple_of=2, description="width of a head, even; unset = width / heads"
    )
    hidden: int | None = Field(
        None, ge=1, description="hidden width of the feed-forward net; unset = 4 x width, or 8/3 x width if gated"
    )
    feed_forward: FeedForwardName = Field(
        "gelu", description="feed-forward net; gelu has a plain hidden layer, geglu a gated one"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on each residual branch")
    attention: Backend = Field(
        "sdpa",
        description="attention kernel; flash needs flash-attn and CUDA; layers with masks (XL, Titans) then use sdpa",
    )
    rotary: bool = Field(True, description="rotary positions: rotate queries and keys by their places")

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.head_width is None and self.width % (2 * self.heads):
            raise ValueError(
                f"heads={self.heads} must divide width={self.width} into even widths, because rotary positions "
                "rotate pairs of channels; change heads or width, or set head_width"
            )
        return self


class GEGLU(nn.Module):
    """The gated hidden layer of GLU Variants (arXiv 2002.05202), equation 6: (..., 2F) to (..., F).

    The first half passes through GELU and scales the second half: GELU(x W) * (x V), with W and V in one matrix.
    """

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        return F.gelu(gate) * value


def feed_forward(config: DecoderConfig) -> list[nn.Module]:
    """Return the modules of a feed-forward net, (..., D) to (..., D), without norm and dropout.

    GEGLU has three matrices instead of two, so 2/3 of the hidden width gives the same number of parameters (arXiv
    2002.05202, section 3). The width is rounded to a multiple of 8, which is fast in kernels. Biases are kept, although
    the paper leaves them out.
    """
    gated, width = config.feed_forward == "geglu", config.width
    hidden = config.hidden or (8 * round(width / 3) if gated else 4 * width)
    first = nn.Linear(width, 2 * hidden if gated else hidden)
    return [first, GEGLU() if gated else nn.GELU(), nn.Linear(hidden, width)]


class KeyValues(NamedTuple):
    """Keys and values of the open segment, and their number in each batch element."""

    keys_BCHE: Tensor
    values_BCHE: Tensor
    count_B: Tensor


StateT = TypeVar("StateT", bound=Tree)
CacheT = TypeVar("CacheT", bound=Tree)


class Residual(nn.Module):
    """Join a branch's output y to the stream x, both (B, L, D), as the sum x + y. Base class of other joins."""

    def forward(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        return x_BLD + y_BLD


class Block(SegmentRecurrent[StateT, CacheT]):
    """Base class of all attention layers: x + Attention(Norm(x)), then x + FeedForward(Norm(x)).

    The two sums are modules, `attention_residual` and `feed_forward_residual`, so that a subclass can replace them.

    Args:
        config: sizes.
        prefix: the first `prefix` tokens of a segment all see each other; 0 is purely causal and suits fused kernels.
    """

    def __init__(self, config: DecoderConfig, prefix: int = 0) -> None:
        super().__init__()
        self.width, self.prefix = config.width, prefix
        self.heads, self.head_width = config.heads, config.head_width or config.width // config.heads
        inner = self.heads * self.head_width
        self.attention_norm = nn.LayerNorm(config.width)
        self.to_queries_keys = nn.Linear(config.width, 2 * inner, bias=False)
        self.to_values = nn.Linear(config.width, inner, bias=False)
        self.from_heads = nn.Linear(inner, config.width, bias=False)
        self.feed_forward = nn.Sequential(nn.LayerNorm(config.width), *feed_forward(config))
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.attention_residual, self.feed_forward_residual = Residual(), Residual()
        self.attend = backend(config.attention)
        self.rotary = config.rotary

    def rotations(self, places: int) -> Tensor:
        """Return the table of rotations for at least `places` places, rounded up to a power of two.

        Without rotary positions, the table rotates nothing.
        """
        table = rotary_table(self.head_width, 1 << (places - 1).bit_length(), self.to_values.weight.device)
        return table if self.rotary else standing(table)

    def project(self, x_BLD: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, rotated to their places, and values, each (B, L, H, E)."""
        normed = self.attention_norm(x_BLD)
        queries_keys = self.to_queries_keys(normed).unflatten(-1, (-1, self.head_width))
        queries, keys = rotate(queries_keys, rotations).chunk(2, 2)
        return queries, keys, self.to_values(normed).unflatten(-1, (-1, self.head_width))

    def add_attended(self, x_BLD: Tensor, attended_BLHE: Tensor) -> Tensor:
        """Join the attention branch to the residual stream."""
        joined: Tensor = self.attention_residual(x_BLD, self.dropout(self.from_heads(attended_BLHE.flatten(-2))))
        return joined

    def feed(self, x_BLD: Tensor) -> Tensor:
        """Join the feed-forward branch to the residual stream."""
        fed: Tensor = self.feed_forward_residual(x_BLD, self.dropout(self.feed_forward(x_BLD)))
        return fed

    def finish(self, x_BLD: Tensor, attended_BLHE: Tensor) -> Tensor:
        """Complete the layer after attention: join the attention branch, then the feed-forward branch."""
        return self.feed(self.add_attended(x_BLD, attended_BLHE))

    def open(self, batch_size: int, capacity: int) -> KeyValues:
        """Return an empty key-value cache.

        In memory, each head's keys lie one after the other. A step reads them twice as fast so.
        """
        weight = self.to_values.weight
        shape = (batch_size, self.heads, capacity, self.head_width)
        keys, values = weight.new_zeros(shape), weight.new_zeros(shape)
        count = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        return KeyValues(keys.transpose(1, 2), values.transpose(1, 2), count)

    def extend(self, x_BTD: Tensor, cache: KeyValues, lengths_B: Tensor | None) -> tuple[Tensor, KeyValues]:
        """Run T more tokens, placed behind the cached tokens of their batch element."""
        capacity = cache.keys_BCHE.shape[1]
        places_BT = consecutive_places(cache.count_B, x_BTD.shape[1])
        q, k, v = self.project(x_BTD, self.rotations(capacity)[places_BT])
        keys, values = put_tokens_(cache.keys_BCHE, places_BT, k), put_tokens_(cache.values_BCHE, places_BT, v)
        used = used_places(places_BT, capacity)
        mask = causal_mask(places_BT, used, self.prefix)
        attended = self.attend(q, keys[:, :used].to(q.dtype), values[:, :used].to(q.dtype), mask)
        added = added_tokens(x_BTD.shape[1], lengths_B)
        return self.finish(x_BTD, attended), KeyValues(keys, values, cache.count_B + added)


class DecoderLayer(Block[tuple[()], KeyValues]):
    """A decoder layer that sees its own segment only. Its state is empty."""

    lasting = False

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, x_BLD: Tensor, state: tuple[()], lengths_B: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        length = x_BLD.shape[1]
        q, k, v = self.project(x_BLD, self.rotations(length)[:length])
        places = torch.arange(length, device=x_BLD.device)[None]
        mask = causal_mask(places, length, self.prefix) if self.prefix else None
        return self.finish(x_BLD, self.attend(q, k, v, mask)), ()

    def begin(self, state: tuple[()], batch_size: int, capacity: int) -> KeyValues:
        return self.open(batch_size, capacity)

    def step(self, x_BTD: Tensor, cache: KeyValues, lengths_B: Tensor | None = None) -> tuple[Tensor, KeyValues]:
        return self.extend(x_BTD, cache, lengths_B)

    def end(self, cache: KeyValues) -> tuple[()]:
        return ()

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(DecoderConfig(width=width, heads=2))
        yield cls(DecoderConfig(width=width, heads=2, dropout=0.2, hidden=width))
        yield cls(DecoderConfig(width=width, heads=2, feed_forward="geglu", rotary=False))


def decoder(config: DecoderConfig, layers: list[SegmentRecurrent[Any, Any]]) -> Stack:
    """Return the layers followed by the final norm that pre-norm residual streams need."""
    return Stack([*layers, Pointwise(nn.LayerNorm(config.width), config.width)])
