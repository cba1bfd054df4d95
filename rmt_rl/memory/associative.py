"""An associative matrix in each layer, written by memory tokens with the delta rule (ARMT).

ARMT (arXiv 2407.04841), section 2, equations 3 to 7. `count` learned memory tokens follow each segment's tokens. At the
end of the segment, a layer's outputs m at the memory tokens give keys, values and strengths, which are written to the
layer's matrix A and normaliser z. In the next segment, the layer's inputs x query A, and the answers are added to x
before the layer runs.

    f = phi(W_k m), c = z f, beta = sigmoid(W_b m)        phi: DPFP, normalised to length 1, so f f = 1
    gamma = max(0, 1 - c)                                 how much of the key is new
    z <- z + gamma f
    A <- A + f beta (W_v m - f A / max(1, c))             the delta rule
    x <- x + phi(W_q x) A / max(1, z phi(W_q x))

Three differences from the paper keep A bounded over any number of segments:

- Tokens are written one after the other. The paper sums over all of them, so n tokens with the same key overshoot, and
  A grows like (n beta - 1)^segments.
- The divisor is the normaliser after the key was added, max(1, c), which is never below 1. The paper divides by c, and
  c may be close to zero for a key that A knows only slightly. For a known key (c >= 1) both divisors are the same.
- The outputs m are normalised before keys and values are computed. Otherwise A would feed itself through the residual
  stream.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, M memory tokens, D width, K width of a
key, F = 2 K nu features.
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
from rmt_rl.recurrence import SegmentRecurrent, Stack, Tree, clone, consecutive_places, take_tokens


class Associations(NamedTuple):
    """The matrix A (B, F, D) and the normaliser z (B, F), both initially zero."""

    matrix_BFD: Tensor
    normaliser_BF: Tensor


class LayerState(NamedTuple):
    """A layer's associations, and the layer's own state (its cache while a segment is open)."""

    associations: Associations
    inner: Tree


def dpfp(x_BTK: Tensor, nu: int) -> Tensor:
    """Return the features (B, T, 2 K nu), all >= 0, of the deterministic parameter-free projection (DPFP).

    arXiv 2102.11174, equation 37: r = [relu(x), relu(-x)], and feature (i, j) is r[i] r[i - j] for j = 1 ... nu.

    The feature vector has length 1, or 0 if no product is positive, which hardly happens if K is 8 or more.
    """
    r = torch.cat((x_BTK, -x_BTK), -1).relu()
    features = torch.cat([r * r.roll(shift, -1) for shift in range(1, nu + 1)], -1)
    return F.normalize(features, dim=-1)


class AssociativeMatrix(nn.Module):
    """Read and write a layer's associations.

    Args:
        width: D.
        key_width: K.
        nu: the number of products that DPFP forms for each channel.

    Raises:
        UsageError: nu is not in 1 ... K - 1. At distance K, a channel meets its own negative part and their product is
            0. Beyond K, products repeat.
    """

    def __init__(self, width: int, key_width: int, nu: int) -> None:
        super().__init__()
        if not 1 <= nu < key_width:
            raise UsageError(f"nu={nu} must be from 1 to less than key_width={key_width}; lower nu or raise key_width")
        self.width, self.nu, self.features = width, nu, 2 * key_width * nu
        self.to_query = nn.Linear(width, key_width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.to_key = nn.Linear(width, key_width, bias=False)
        self.to_value = nn.Linear(width, width, bias=False)
        self.to_strength = nn.Linear(width, 1)

    def initial_state(self, batch_size: int) -> Associations:
        """Return a matrix and a normaliser of zeros: nothing is associated yet."""
        weight = self.to_value.weight
        return Associations(
            weight.new_zeros(batch_size, self.features, self.width), weight.new_zeros(batch_size, self.features)
        )

    def read(self, x_BTD: Tensor, state: Associations) -> Tensor:
        """Return the answers (B, T, D) to the tokens' queries; zero if nothing is associated."""
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
    """Layers that each have an associative matrix, and the memory tokens that write the matrices.

    In each batch element, the memory tokens directly follow the real tokens of the causal row: [real tokens, memory,
    padding]. The memory tokens thus see the whole segment, and no token of the segment sees them.

    Args:
        layers: causal cores, such as decoder layers.
        count: M, the number of memory tokens.
        key_width: K, the width of keys and queries.
        nu: the number of products that DPFP forms for each channel.
    """

    def __init__(self, layers: Sequence[SegmentRecurrent[Any, Any]], count: int, key_width: int, nu: int = 3) -> None:
        super().__init__()
        self.layers, self.count, self.width = nn.ModuleList(layers), count, layers[0].width
        self.matrices = nn.ModuleList(AssociativeMatrix(self.width, key_width, nu) for _ in layers)
        # Random, not zero: equal tokens would get equal gradients and stay equal for ever.
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
        places_BM = consecutive_places(lengths_B, self.count)
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
        memory_BMD, states = self.memory_MD.expand(cache[0].associations.matrix_BFD.shape[0], -1, -1), []
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
