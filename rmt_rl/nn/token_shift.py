"""Token shift: a layer sees half of each token and half of the preceding token (RWKV, arXiv 2305.13048).

RWKV's token shift mixes each token with the preceding one, channel by channel, by learned weights. Here the weights are
fixed, as in RWKV's first versions: 1 and 0 in the first half of the channels, 0 and 1 in the second half. A layer thus
sees pairs of neighbouring tokens, also across segments, without any parameters.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.recurrence import SegmentRecurrent, Tree, take_tokens


class Shifted(NamedTuple):
    """The last real token (B, D), zero before the first token, and the layer's own state or cache."""

    previous_BD: Tensor
    inner: Tree


class TokenShift(SegmentRecurrent[Shifted, Shifted]):
    """Turn a residual layer z + F(z) into x + F(shift(x)), so that the residual stream itself isn't shifted.

    Inside `MemoryTokens`, read and write tokens are shifted like all tokens. The first real token is mixed with the
    last read token, and the first read token with the last write token of the preceding segment.

    Args:
        layer: a core with parameters, which determine the device.
    """

    def __init__(self, layer: SegmentRecurrent[Any, Any]) -> None:
        super().__init__()
        self.layer, self.width, self.lasting = layer, layer.width, layer.lasting

    def initial_state(self, batch_size: int) -> Shifted:
        zeros_BD = next(self.parameters()).new_zeros(batch_size, self.width)
        return Shifted(zeros_BD, self.layer.initial_state(batch_size))

    def forward(self, x_BLD: Tensor, state: Shifted, lengths_B: Tensor | None = None) -> tuple[Tensor, Shifted]:
        z_BLD, previous_BD = self._shift(x_BLD, state.previous_BD, lengths_B)
        y_BLD, inner = self.layer(z_BLD, state.inner, lengths_B)
        return x_BLD + (y_BLD - z_BLD), Shifted(previous_BD, inner)

    def _shift(self, x_BLD: Tensor, previous_BD: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the shifted tokens and the last real token, which is `previous_BD` if no token is real."""
        row = torch.cat((previous_BD[:, None].to(x_BLD.dtype), x_BLD), 1)
        own = self.width - self.width // 2
        z_BLD = torch.cat((x_BLD[..., :own], row[:, :-1, own:]), -1)
        # Cloned, because a view in the state would keep the whole row in memory.
        return z_BLD, row[:, -1].clone() if lengths_B is None else take_tokens(row, lengths_B[:, None])[:, 0]

    def begin(self, state: Shifted, batch_size: int, capacity: int) -> Shifted:
        return Shifted(state.previous_BD.clone(), self.layer.begin(state.inner, batch_size, capacity))

    def step(self, x_BTD: Tensor, cache: Shifted, lengths_B: Tensor | None = None) -> tuple[Tensor, Shifted]:
        z_BTD, previous_BD = self._shift(x_BTD, cache.previous_BD, lengths_B)
        y_BTD, inner = self.layer.step(z_BTD, cache.inner, lengths_B)
        return x_BTD + (y_BTD - z_BTD), Shifted(previous_BD, inner)

    def end(self, cache: Shifted) -> Shifted:
        return Shifted(cache.previous_BD, self.layer.end(cache.inner))

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, dropout=0.1)
        yield cls(DecoderLayer(config))
        yield cls(cls(DecoderLayer(config)))
