"""Value residual: every layer mixes its values with the first layer's (ResFormer, arXiv 2410.17897).

Layer n > 1 attends with the values lambda_n v_n + (1 - lambda_n) v_1, where v_1 are the values that the first layer
computes for the same token. The paper adds v_n and v_1 with fixed or learned weights. Here lambda is a learned sigmoid,
initially 1/2, so the weights always add up to 1.

Layers pass v_1 on as part of the rows: the D channels of a token are followed by the H x E channels of its v_1. So
nothing is kept besides the layers' ordinary caches, which hold mixed values.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, D width, H heads, E width of a head,
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
    """A decoder layer on rows (B, L, W). It reads and changes the token's D channels and passes v_1 on unchanged."""

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
    """A layer that attends to its own values mixed with the carried v_1."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.own_share = nn.Parameter(torch.zeros(()))  # the logit of lambda

    def project(self, row_BLW: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = super().project(row_BLW, rotations)
        first = row_BLW[..., -self.carried :].view_as(values).to(values.dtype)
        return queries, keys, first + self.own_share.sigmoid() * (values - first)


class ValueResidual(Stack):
    """Layers on rows of width W. Tokens have width D in and out.

    Args:
        layers: the first layer computes v_1, and no layer changes v_1.
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
        """Return rows (B, L, W): the tokens with v_1 appended.

        The first layer computes v_1 a second time. This costs one matrix product and keeps all layers plain.
        """
        first = cast("CarryingLayer", self.layers[0])
        return torch.cat((x_BLD, first.to_values(first.attention_norm(x_BLD))), -1)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, head_width=2, dropout=0.1)
        yield cls([CarryingLayer(config), ValueResidualLayer(config), ValueResidualLayer(config)])


def value_residual(config: DecoderConfig) -> list[SegmentRecurrent[Any, Any]]:
    """Return `config.layers` layers as a list of one core, which takes the place of plain decoder layers."""
    later = [ValueResidualLayer(config) for _ in range(config.layers - 1)]
    return [ValueResidual([CarryingLayer(config), *later])]
