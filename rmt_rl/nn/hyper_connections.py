"""Hyper-connections: S residual streams that layers read, mix and write by learned weights (arXiv 2409.19606).

A layer reads a mix of the streams, its contribution is written to all streams, and the streams are mixed with each
other. This is the dynamic form, in which each weight is a learned parameter plus a small term computed from the token.
The paper wraps attention and feed-forward net separately. Here a layer of any kind is wrapped as a whole.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, S streams, D width of a stream, R = 1 + S
outputs of the mixing (the layer's input, then the streams).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.nn.graphs import without_autocast
from rmt_rl.recurrence import Pointwise, SegmentRecurrent, Tree


class HyperConnection(SegmentRecurrent[Tree, Tree]):
    """Wrap a residual layer z + F(z) of width D. A token is S streams side by side, S x D wide.

    With H the streams (S x D), N = LayerNorm(H) and * elementwise (the paper's width- and depth-connections):

        alpha = A + a * tanh(N W)    (S x R)    initially A = [e_{index mod S}, I], a = 0.01
        beta = b + c * tanh(N w)     (S)        initially b = 1, c = 0.01
        [z; H'] = alpha^T H
        H'' = H' + beta F(z)

    W and w are stored in one matrix and start at zero. While the streams are equal, each passes through plain residual
    layers.

    Args:
        layer: the wrapped core, of width D. Its state and cache become those of the wrapper.
        streams: S, the number of streams.
        index: the layer's place among the layers; initially the layer reads stream `index` mod S.
    """

    def __init__(self, layer: SegmentRecurrent[Any, Any], streams: int, index: int) -> None:
        super().__init__()
        self.layer, self.streams, self.width = layer, streams, streams * layer.width
        self.lasting = layer.lasting
        reads_first = torch.zeros(streams, 1)
        reads_first[index % streams] = 1
        self.alpha_SR = nn.Parameter(torch.cat((reads_first, torch.eye(streams)), 1))
        self.beta_S = nn.Parameter(torch.ones(streams))
        self.norm = nn.LayerNorm(layer.width)
        self.to_weights = nn.Linear(layer.width, streams + 2, bias=False)
        nn.init.zeros_(self.to_weights.weight)
        self.scales_2 = nn.Parameter(torch.full((2,), 0.01))

    def initial_state(self, batch_size: int) -> Tree:
        state: Tree = self.layer.initial_state(batch_size)
        return state

    def forward(self, x: Tensor, state: Tree, lengths_B: Tensor | None = None) -> tuple[Tensor, Tree]:
        z_BLD, mixed, beta_BLS = self._read(x)
        y_BLD, state = self.layer(z_BLD, state, lengths_B)
        return self._write(mixed, beta_BLS, y_BLD - z_BLD), state

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the layer's input, the mixed streams (B, L, S, D) and the token's beta: the width-connections."""
        streams = x.unflatten(-1, (self.streams, -1))
        small = torch.tanh(self.to_weights(self.norm(streams)))
        alpha = self.alpha_SR + self.scales_2[0] * small[..., :-1]
        beta_BLS = self.beta_S + self.scales_2[1] * small[..., -1]
        with without_autocast(x.device):  # autocast would round the streams at each layer
            mixed = alpha.mT @ streams.to(alpha.dtype)
        return mixed[..., 0, :], mixed[..., 1:, :], beta_BLS

    def _write(self, mixed: Tensor, beta_BLS: Tensor, contribution_BLD: Tensor) -> Tensor:
        """Return the streams (B, L, S x D) with the layer's contribution added: the depth-connections."""
        return (mixed + beta_BLS[..., None] * contribution_BLD[..., None, :]).flatten(-2)

    def begin(self, state: Tree, batch_size: int, capacity: int) -> Tree:
        cache: Tree = self.layer.begin(state, batch_size, capacity)
        return cache

    def step(self, x: Tensor, cache: Tree, lengths_B: Tensor | None = None) -> tuple[Tensor, Tree]:
        z_BTD, mixed, beta_BTS = self._read(x)
        y_BTD, cache = self.layer.step(z_BTD, cache, lengths_B)
        return self._write(mixed, beta_BTS, y_BTD - z_BTD), cache

    def end(self, cache: Tree) -> Tree:
        state: Tree = self.layer.end(cache)
        return state

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        for streams, index in ((2, 0), (4, 3)):
            core = cls(DecoderLayer(DecoderConfig(width=width // streams, heads=1, dropout=0.1)), streams, index)
            nn.init.normal_(core.to_weights.weight)  # as if trained
            nn.init.ones_(core.scales_2)
            yield core


class Widen(nn.Module):
    """Copy one stream to S equal streams: (..., D) to (..., S x D)."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(*[1] * (x.ndim - 1), self.streams)


class Narrow(nn.Module):
    """Average S streams: (..., S x D) to (..., D).

    The paper sums the streams. The mean differs by a factor S, which the norm behind a decoder removes, and keeps the
    stream's size.
    """

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        streams: Tensor = x.unflatten(-1, (self.streams, -1))
        return streams.mean(-2)


def hyper_connected(layers: Sequence[SegmentRecurrent[Any, Any]], streams: int) -> list[SegmentRecurrent[Any, Any]]:
    """Return the residual layers, all of width D, wrapped to run on S streams, with D in and D out.

    Initially they compute the same as without the wrapping.
    """
    width = layers[0].width
    wrapped = [HyperConnection(layer, streams, index) for index, layer in enumerate(layers)]
    return [Pointwise(Widen(streams), width), *wrapped, Pointwise(Narrow(streams), streams * width)]
