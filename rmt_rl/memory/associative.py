"""An associative matrix in each layer, written by memory tokens with the delta rule (ARMT).

ARMT (arXiv 2407.04841), section 2, equations 3 to 7: `count` learned tokens stand behind each segment's tokens. At the
segment's end their outputs m of a layer give keys, values and strengths, which are written to the layer's matrix A
with the normaliser z; in the next segment, what the layer's inputs x find in A is added to them before the layer.

    f = phi(W_k m), c = z f, beta = sigmoid(W_b m)        phi: DPFP, normed to length 1, so that f f = 1
    gamma = max(0, 1 - c)                                 how much of the key is new
    z <- z + gamma f
    A <- A + f beta (W_v m - f A / max(1, c))             the delta rule
    x <- x + phi(W_q x) A / max(1, z phi(W_q x))

What differs from the paper keeps A bounded for ever, and is the same where a key is known (c >= 1). Tokens are written
one after the other: in the paper's sum over all of them, n tokens of one key overshoot, and A grows like
(n beta - 1)^segments. Divisors are the normaliser after the key was added, and never below 1: the paper's own, c, may
be next to nothing for a key of which A knows a little. And outputs are normed before keys and values are taken, for
else A feeds itself through the residual stream.

Dimensions: B lanes, L tokens of a segment, T tokens of a step call, M memory tokens, D width, K width of a key,
F = 2 K nu features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.nn.token_core import Layers, TokenCore
from rmt_rl.recurrence import SegmentRecurrent, Stack, Tree, clone, take_tokens


class Associations(NamedTuple):
    """The matrix A (B, F, D) and the normaliser z (B, F), both zero at first."""

    matrix_BFD: Tensor
    normaliser_BF: Tensor


class LayerState(NamedTuple):
    """What a layer carries: its associations, and its own state; of an open segment its cache."""

    associations: Associations
    inner: Tree


def dpfp(x_BTK: Tensor, nu: int) -> Tensor:
    """Deterministic parameter-free projection (arXiv 2102.11174, equation 37): features (B, T, 2 K nu) >= 0.

    Their length is 1, or 0 where no product is positive (which hardly happens where K is 8 or more).

    r = [relu(x), relu(-x)]; feature (i, j) is r[i] r[i - j] for j = 1 ... nu.
    """
    r = torch.cat((x_BTK, -x_BTK), -1).relu()
    features = torch.cat([r * r.roll(shift, -1) for shift in range(1, nu + 1)], -1)
    return F.normalize(features, dim=-1)


class AssociativeMatrix(nn.Module):
    """Reads and writes a layer's associations.

    Args:
        width: D.
        key_width: K.
        nu: how many products DPFP makes of each channel.

    Raises:
        UsageError: nu isn't below the width of a key. At that distance stands a channel's negative part, with which its
            product is 0; beyond, products repeat.
    """

    def __init__(self, width: int, key_width: int, nu: int) -> None:
        super().__init__()
        if not 1 <= nu < key_width:
            raise UsageError(f"nu={nu} must be from 1 to less than key_width={key_width}; lower it or widen keys")
        self.width, self.nu, self.features = width, nu, 2 * key_width * nu
        self.to_query = nn.Linear(width, key_width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.to_key = nn.Linear(width, key_width, bias=False)
        self.to_value = nn.Linear(width, width, bias=False)
        self.to_strength = nn.Linear(width, 1)

    def initial_state(self, batch_size: int) -> Associations:
        """Nothing is associated."""
        weight = self.to_value.weight
        return Associations(
            weight.new_zeros(batch_size, self.features, self.width), weight.new_zeros(batch_size, self.features)
        )

    def read(self, x_BTD: Tensor, state: Associations) -> Tensor:
        """What the tokens find, (B, T, D); zero where nothing is associated."""
        features_BTF = dpfp(self.to_query(x_BTD), self.nu)
        known_BT1 = features_BTF @ state.normaliser_BF[:, :, None]
        return features_BTF @ state.matrix_BFD / known_BT1.clamp(min=1)

    def write(self, memory_BMD: Tensor, state: Associations) -> Associations:
        """Associate each memory token's key with its value, one token after the other."""
        normed = self.norm(memory_BMD)
        features_BMF, values_BMD = dpfp(self.to_key(normed), self.nu), self.to_value(normed)
        strengths_BM1 = self.to_strength(normed).sigmoid()
        matrix, normaliser = state
        for parts in zip(features_BMF.split(1, 1), values_BMD.split(1, 1), strengths_BM1.split(1, 1), strict=True):
            key_B1F, value_B1D, strength_B11 = parts
            known_B11 = key_B1F @ normaliser[:, :, None]
            error_B1D = value_B1D - key_B1F @ matrix / known_B11.clamp(min=1)
            matrix = matrix + key_B1F.mT * (strength_B11 * error_B1D)
            normaliser = normaliser + ((1 - known_B11).clamp(min=0) * key_B1F)[:, 0]
        return Associations(matrix, normaliser)


class AssociativeMemory(SegmentRecurrent[tuple[LayerState, ...], tuple[LayerState, ...]]):
    """Layers with an associative matrix each, and the memory tokens that write them.

    The memory tokens lie behind a lane's real tokens in the causal row, [real tokens, memory, padding]: they see all of
    the segment and are seen by none of it.

    Args:
        layers: causal cores, such as decoder layers.
        count: M, the number of memory tokens.
        key_width: K, the width of keys and queries.
        nu: how many products DPFP makes of each channel.
    """

    def __init__(self, layers: Sequence[SegmentRecurrent[Any, Any]], count: int, key_width: int, nu: int = 3) -> None:
        super().__init__()
        self.layers, self.count, self.width = nn.ModuleList(layers), count, layers[0].width
        self.matrices = nn.ModuleList(AssociativeMatrix(self.width, key_width, nu) for _ in layers)
        # Random and not zero: equal tokens would get equal gradients and stay one token for ever.
        self.memory_MD = nn.Parameter(torch.randn(count, self.width) * 0.5)

    def _pairs(self) -> Iterator[tuple[SegmentRecurrent[Any, Any], AssociativeMatrix]]:
        pairs = zip(self.layers, self.matrices, strict=True)
        return cast("Iterator[tuple[SegmentRecurrent[Any, Any], AssociativeMatrix]]", pairs)

    def initial_state(self, batch_size: int) -> tuple[LayerState, ...]:
        return tuple(
            LayerState(matrix.initial_state(batch_size), layer.initial_state(batch_size))
            for layer, matrix in self._pairs()
        )

    def forward(
        self, x_BLD: Tensor, state: tuple[LayerState, ...], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        lanes, length, _ = x_BLD.shape
        if lengths_B is None:
            lengths_B = torch.full((lanes,), length, device=x_BLD.device)
        places_BM = lengths_B[:, None] + torch.arange(self.count, device=x_BLD.device)
        memory_BMD = self.memory_MD.to(x_BLD.dtype).expand(lanes, -1, -1)
        lane_B1 = torch.arange(lanes, device=x_BLD.device)[:, None]
        row = torch.cat((x_BLD, memory_BMD), 1).index_put((lane_B1, places_BM), memory_BMD)
        states = []
        for (layer, matrix), (associations, inner) in zip(self._pairs(), state, strict=True):
            row, inner = layer(row + matrix.read(row, associations), inner, lengths_B + self.count)
            states.append(LayerState(matrix.write(take_tokens(row, places_BM), associations), inner))
        return row[:, :length], tuple(states)

    def begin(self, state: tuple[LayerState, ...], batch_size: int, capacity: int) -> tuple[LayerState, ...]:
        return tuple(
            LayerState(clone(associations), layer.begin(inner, batch_size, capacity + self.count))
            for (layer, _), (associations, inner) in zip(self._pairs(), state, strict=True)
        )

    def step(
        self, x_BTD: Tensor, cache: tuple[LayerState, ...], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        caches = []
        for (layer, matrix), (associations, inner) in zip(self._pairs(), cache, strict=True):
            x_BTD, inner = layer.step(x_BTD + matrix.read(x_BTD, associations), inner, lengths_B)
            caches.append(LayerState(associations, inner))
        return x_BTD, tuple(caches)

    def end(self, cache: tuple[LayerState, ...]) -> tuple[LayerState, ...]:
        memory_BMD, states = self.memory_MD.expand(len(cache[0].associations.matrix_BFD), -1, -1), []
        for (layer, matrix), (associations, inner) in zip(self._pairs(), cache, strict=True):
            memory_BMD, inner = layer.step(memory_BMD + matrix.read(memory_BMD, associations), inner)
            states.append(LayerState(matrix.write(memory_BMD, associations), layer.end(inner)))
        return tuple(states)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, dropout=0.1)
        yield cls([DecoderLayer(config) for _ in range(2)], count=3, key_width=4)
        yield cls([decoder(config, [DecoderLayer(config)])], count=1, key_width=2, nu=1)


def _token_core(layers: Layers) -> Stack:
    return decoder(layers.config, [AssociativeMemory(layers.build_list(), layers.memory_tokens, key_width=16)])


TOKEN_CORES = {"armt": TokenCore(_token_core, needs_memory_tokens=True)}
