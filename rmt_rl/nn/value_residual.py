"""Value residual: every layer attends to values of its own mixed with the first layer's (ResFormer, arXiv 2410.17897).

Layer n > 1 attends with lambda_n v_n + (1 - lambda_n) v_1, where v_1 are the values that the first layer computes for
the same token. The paper adds the two with weights that are fixed or learned; here lambda is a learned sigmoid, 1/2 at
first, so that they always add up to 1.

Layers hand v_1 on in the rows: behind the D channels of a token come the H x E of its v_1. So there's nothing to keep
but the layers' ordinary caches, which hold mixed values.

Dimensions: B lanes, L tokens of a segment, T tokens of a step call, D width, H heads, E width of a head,
W = D + H x E.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.recurrence import SegmentRecurrent, Stack, Tree


class CarryingLayer(DecoderLayer):
    """A decoder layer on rows (B, L, W): it reads and changes the token, and carries v_1 on."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.carried = self.heads * self.head_width
        self.width += self.carried

    def project(self, row_BLW: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().project(row_BLW[..., : -self.carried], rotations)

    def finish(self, row_BLW: Tensor, attended_BLHE: Tensor) -> Tensor:
        finished_BLD = super().finish(row_BLW[..., : -self.carried], attended_BLHE)
        return torch.cat((finished_BLD, row_BLW[..., -self.carried :]), -1)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(DecoderConfig(width=width // 2, heads=2, head_width=width // 4, dropout=0.1))


class ValueResidualLayer(CarryingLayer):
    """A layer that attends to its own values mixed with those that it carries."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.own_share = nn.Parameter(torch.zeros(()))  # lambda's logit

    def project(self, row_BLW: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = super().project(row_BLW, rotations)
        first = row_BLW[..., -self.carried :].view_as(values).to(values.dtype)
        return queries, keys, first + self.own_share.sigmoid() * (values - first)


class ValueResidual(Stack):
    """Layers on rows of width W; tokens are D wide in and out.

    Args:
        layers: the first computes v_1, and none of them changes what it carries.
    """

    def __init__(self, layers: Sequence[CarryingLayer]) -> None:
        super().__init__(layers)
        self.width = layers[0].width - layers[0].carried

    def forward(
        self, x_BLD: Tensor, state: tuple[Tree, ...], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tree, ...]]:
        y_BLW, state = super().forward(self._with_values(x_BLD), state, lengths_B)
        return y_BLW[..., : self.width], state

    def step(
        self, x_BTD: Tensor, cache: tuple[Tree, ...], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tree, ...]]:
        y_BTW, cache = super().step(self._with_values(x_BTD), cache, lengths_B)
        return y_BTW[..., : self.width], cache

    def _with_values(self, x_BLD: Tensor) -> Tensor:
        """Rows (B, L, W). The first layer computes these values once more: one matrix, and plain layers all the way."""
        first = cast("CarryingLayer", self.layers[0])
        return torch.cat((x_BLD, first.to_values(first.attention_norm(x_BLD))), -1)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, head_width=2, dropout=0.1)
        yield cls([CarryingLayer(config), ValueResidualLayer(config), ValueResidualLayer(config)])


def value_residual(config: DecoderConfig) -> list[SegmentRecurrent[Any, Any]]:
    """As many layers as the config says, to be put where plain decoder layers would be: a list of one core."""
    later = [ValueResidualLayer(config) for _ in range(config.layers - 1)]
    return [ValueResidual([CarryingLayer(config), *later])]
