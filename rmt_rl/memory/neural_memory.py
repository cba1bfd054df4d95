"""Titans' neural long-term memory (arXiv 2501.00663): one MLP per batch element, trained at test time.

Every token gives a key and a value, and the MLP M takes a step of gradient descent, with momentum and forgetting, on
this pair. M answers queries (section 3.1). As in section 3.2, tokens are processed in chunks. The gradients of a
chunk's tokens are taken at the weights of the chunk's start. The same weights answer the queries of these tokens, so no
output sees a later token. A token is stored unprocessed until its chunk is full, so a sequence may be cut into segments
anywhere.

Choices that the paper leaves open:

- M's hidden units are tanh(.) / sqrt(H), so each matrix of M sees inputs in the unit ball, like the l2-normalised keys
  and queries.
- The loss is half of equation 12, as in equations 17 and 33. A factor 2 would only rescale theta.
- The steps of a chunk are limited to 1 in sum, eta to .99, and matrices to twice their initial size, so nothing grows
  without bound, whatever the input.
- The convolutions of section 4.4 are left out, so a pair depends on its own token alone.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, R tokens of a row (those that wait, then
the segment's), N full chunks in a row, C tokens of a chunk, D width, H hidden width, O x I a matrix of M.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.nn.graphs import run_if, without_autocast
from rmt_rl.recurrence import (
    SegmentRecurrent,
    added_tokens,
    clone,
    consecutive_places,
    is_free_to_ask,
    joined,
    only_first,
    put_lanes_,
    put_tokens_,
    select_lanes,
    take_tokens,
    tree_fill,
    tree_leaves,
    where_lanes,
)

Matrices = tuple[Tensor, ...]

MOMENTUM, LARGEST_MOMENTUM = 0.8, 0.99  # initial and largest eta


class NeuralState(NamedTuple):
    """M's matrices, (B, O, I) each, and their momentum S, in float32 or wider, and the tokens of the open chunk.

    `tokens_BCD` holds `count_B` (int64, less than C) tokens that aren't learnt yet, followed by zeros.
    """

    weights: Matrices
    momentum: Matrices
    tokens_BCD: Tensor
    count_B: Tensor


class Gates(NamedTuple):
    """Coefficients of the update from the start to the end of a chunk, with g the gradients of the chunk's tokens.

    weights = keep * weights + carry * momentum - sum of to_weights * g

    momentum = decay * momentum - sum of to_momentum * g
    """

    keep_BN: Tensor
    carry_BN: Tensor
    decay_BN: Tensor
    to_weights_BNC: Tensor
    to_momentum_BNC: Tensor


class NeuralMemory(SegmentRecurrent[NeuralState, NeuralState]):
    """A layer with an associative memory: out = Linear(RMSNorm(M(query))) for every token.

    Args:
        width: D, the width of tokens, keys and values.
        chunk: C, the number of tokens that are learnt together.
        depth: the number of matrices of M; 1 = a linear memory.
        hidden_factor: H / D.
        forgetting: the initial alpha. Holding something over 100,000 tokens allows no more than 1e-6. Training sees
            fewer tokens and can't tell 1e-4 from zero. A gate that is useful still opens, though slowly.

    Raises:
        UsageError: depth or chunk is below 1, or forgetting isn't from 1e-12 to .999, the range that float32 resolves.
    """

    undecayed = ("to_gates.bias",)  # at AdamW's usual weight decay, forgetting would be 1e-3 after 100,000 updates

    def __init__(
        self, width: int, chunk: int, depth: int = 2, hidden_factor: float = 1.0, forgetting: float = 1e-6
    ) -> None:
        super().__init__()
        if depth < 1 or chunk < 1:
            raise UsageError(f"depth={depth} and chunk={chunk} must be at least 1")
        if not 1e-12 <= forgetting <= 0.999:
            raise UsageError(f"forgetting={forgetting} must be from 1e-12 to 0.999")
        self.width, self.chunk = width, chunk
        self.norm = nn.LayerNorm(width)
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.to_gates = nn.Linear(width, 3)
        self.output_norm = nn.RMSNorm(width, eps=1e-5)
        self.output = nn.Linear(width, width, bias=False)
        sizes = [width, *[max(1, round(hidden_factor * width))] * (depth - 1), width]
        matrices = [torch.randn(outer, inner) for inner, outer in pairwise(sizes)]
        matrices[-1] *= 0.1  # so that what is learnt soon outweighs the answers of an empty memory
        self.initial = nn.ParameterList(matrices)
        step = (1 - MOMENTUM) / chunk  # so that a chunk's steps sum to about 1
        first = torch.tensor([forgetting, step, MOMENTUM / LARGEST_MOMENTUM])
        self.to_gates.bias.data.copy_(torch.logit(first))

    def initial_state(self, batch_size: int) -> NeuralState:
        """Return M's learned initial weights for every batch element, no momentum and no tokens."""
        wide = torch.promote_types(self.output.weight.dtype, torch.float32)
        weights = tuple(matrix.to(wide).expand(batch_size, -1, -1) for matrix in self.initial)
        tokens = self.output.weight.new_zeros(batch_size, self.chunk, self.width)
        count = torch.zeros(batch_size, dtype=torch.long, device=tokens.device)
        return NeuralState(weights, tuple(torch.zeros_like(matrix) for matrix in weights), tokens, count)

    def forward(self, x_BLD: Tensor, state: NeuralState, lengths_B: Tensor | None = None) -> tuple[Tensor, NeuralState]:
        length, row = x_BLD.shape[1], self._row(x_BLD, state)
        anchors, following = self._learn(row, state, length, lengths_B)
        queries = self._queries(row).to(state.weights[0].dtype).split(self.chunk, 1)
        with without_autocast(x_BLD.device):
            answers = [_answer(weights, part) for weights, part in zip(anchors, queries, strict=False)]
        y_BRD = self._out(torch.cat(answers, 1))
        if y_BRD.shape[1] > length:
            y_BRD = take_tokens(y_BRD, consecutive_places(state.count_B, length))
        return y_BRD, following

    def retrieve(self, x_BLD: Tensor, weights: Matrices) -> Tensor:
        """Return the answers (B, L, D) of M with these weights to the tokens (equation 15). Nothing is learnt."""
        queries = self._queries(x_BLD).to(weights[0].dtype)
        with without_autocast(x_BLD.device):
            answers = _answer(weights, queries)
        return self._out(answers)

    def write(self, x_BLD: Tensor, state: NeuralState, lengths_B: Tensor | None = None) -> NeuralState:
        """Return the state after these tokens, the same as from `forward`, without computing answers."""
        return self._learn(self._row(x_BLD, state), state, x_BLD.shape[1], lengths_B)[1]

    # Rows: chunks begin at the same columns in every batch element

    def _row(self, x_BLD: Tensor, state: NeuralState) -> Tensor:
        """Return each batch element's waiting tokens, directly followed by its new tokens, (B, R, D)."""
        waiting_BND = state.tokens_BCD[:, : self.chunk - 1]  # a full chunk doesn't wait
        return joined(waiting_BND, state.count_B, x_BLD)

    def _learn(
        self, row: Tensor, state: NeuralState, length: int, lengths_B: Tensor | None
    ) -> tuple[list[Matrices], NeuralState]:
        """Return the weights before each chunk of the row and after the last chunk, and the next state."""
        total_B = state.count_B + added_tokens(length, lengths_B)
        whole = lengths_B is None and row.shape[1] == length  # every chunk is full in every batch element
        learnt, anchors = (state.weights, state.momentum), [state.weights]
        if chunks := row.shape[1] // self.chunk:
            for index, (keys, values, gates) in enumerate(self._chunks(row, chunks, state.weights[0].dtype)):
                with without_autocast(row.device):
                    new = _descend(*learnt, keys, values, gates)
                # A batch element learns a chunk only when the chunk is full.
                learnt = new if whole else where_lanes(total_B >= (index + 1) * self.chunk, new, learnt)
                anchors.append(learnt[0])
        count_B = total_B % self.chunk
        if whole and row.shape[1] % self.chunk == 0:
            left = torch.zeros_like(state.tokens_BCD)
        else:
            places = consecutive_places(total_B - count_B, self.chunk)
            left = only_first(take_tokens(row, places.clamp(max=row.shape[1] - 1)), count_B)
        return anchors, NeuralState(*learnt, left.to(state.tokens_BCD.dtype), count_B)

    # Queries, keys, values and gates

    def _queries(self, x_BLD: Tensor) -> Tensor:
        return F.normalize(F.silu(self.to_queries(self.norm(x_BLD))), dim=-1)

    def _out(self, answers_BLD: Tensor) -> Tensor:
        out: Tensor = self.output(self.output_norm(answers_BLD.to(self.output.weight.dtype)))
        return out

    def _chunks(self, row: Tensor, chunks: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Gates]]:
        """Yield keys and values (B, C, D) and gates, (B, 1, 1) or (B, C, 1), of every full chunk."""
        normed = self.norm(row[:, : chunks * self.chunk])
        keys, values = F.silu(self.to_keys_values(normed)).to(dtype).chunk(2, -1)
        with without_autocast(row.device):
            keys = F.normalize(keys, dim=-1)
            logits = F.linear(normed.to(dtype), self.to_gates.weight.to(dtype), self.to_gates.bias.to(dtype))
            gates = _gates(logits.unflatten(1, (chunks, self.chunk)))
        for index in range(chunks):
            part = slice(index * self.chunk, (index + 1) * self.chunk)
            own = Gates(*(gate[:, index].view(row.shape[0], -1, 1) for gate in gates))
            yield keys[:, part], values[:, part], own

    # Step by step: M is read at once, and learns when the chunk of a batch element is full

    def begin(self, state: NeuralState, batch_size: int, capacity: int) -> NeuralState:
        return clone(state)

    def step(self, x_BTD: Tensor, cache: NeuralState, lengths_B: Tensor | None = None) -> tuple[Tensor, NeuralState]:
        steps = x_BTD.shape[1]
        total_B = cache.count_B + added_tokens(steps, lengths_B)
        if torch.compiler.is_exporting():
            return self._step_in_graph(x_BTD, cache, total_B)
        y_BTD = self.retrieve(x_BTD, cache.weights)
        filled = (total_B >= self.chunk).nonzero()[:, 0]
        if len(filled):
            lengths = None if lengths_B is None else lengths_B[filled]
            y, after = self(x_BTD[filled], select_lanes(cache, filled), lengths)
        # If a chunk is full, and at padding, this may overwrite the last place, which is not used in these cases.
        places = consecutive_places(cache.count_B, steps)
        put_tokens_(cache.tokens_BCD, places.clamp(max=self.chunk - 1), x_BTD)
        cache = cache._replace(count_B=total_B)
        if len(filled):
            y_BTD = y_BTD.index_copy(0, filled, y.to(y_BTD.dtype))
            put_lanes_(cache, filled, after)
        return y_BTD, cache

    def _step_in_graph(self, x_BTD: Tensor, cache: NeuralState, total_B: Tensor) -> tuple[Tensor, NeuralState]:
        """Return what `step` returns, for a graph, whose shapes can't depend on values.

        If the chunk of any batch element is full, all learn one, and the result is selected.
        """
        filled_B = total_B >= self.chunk
        places = consecutive_places(cache.count_B, x_BTD.shape[1])
        tokens = put_tokens_(cache.tokens_BCD.clone(), places.clamp(max=self.chunk - 1), x_BTD)
        waiting = (self.retrieve(x_BTD, cache.weights), tokens, total_B)
        inputs = (filled_B, x_BTD, *waiting, *tree_leaves(cache))
        learning = _Learning(self, cache)
        y_BTD, *leaves = run_if(filled_B.any(), learning, inputs, learning.without)
        return y_BTD, tree_fill(cache, leaves)

    def end(self, cache: NeuralState) -> NeuralState:
        return cache._replace(tokens_BCD=only_first(cache.tokens_BCD, cache.count_B))

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(width, chunk=6)
        yield cls(width, chunk=4, depth=3, hidden_factor=2)
        yield cls(width, chunk=1, depth=1)


class _Learning(nn.Module):
    """A step of a memory in a graph, as a map of tensors alone.

    Args:
        memory: the memory.
        like: a cache of it, whose tensors the maps take and return in order.
    """

    def __init__(self, memory: NeuralMemory, like: NeuralState) -> None:
        super().__init__()
        self.memory, self.like = memory, like

    def forward(
        self, filled_B: Tensor, x_BTD: Tensor, y_BTD: Tensor, tokens_BCD: Tensor, total_B: Tensor, *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the answers and the next cache. Batch elements whose chunk is full learn it.

        The others have the answers, waiting tokens and count that are given.
        """
        cache = tree_fill(self.like, leaves)
        learnt_BTD, learnt = self.memory(x_BTD, cache, total_B - cache.count_B)
        waiting = cache._replace(tokens_BCD=tokens_BCD, count_B=total_B)
        chosen = where_lanes(filled_B, learnt, waiting)
        return (torch.where(filled_B[:, None, None], learnt_BTD, y_BTD), *tree_leaves(chosen))

    def without(
        self, filled_B: Tensor, x_BTD: Tensor, y_BTD: Tensor, tokens_BCD: Tensor, total_B: Tensor, *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the same if no chunk is full."""
        waiting = tree_fill(self.like, leaves)._replace(tokens_BCD=tokens_BCD, count_B=total_B)
        return clone((y_BTD, *tree_leaves(waiting)))


def _gates(logits_BNC3: Tensor) -> Gates:
    """Return the coefficients of a chunk's update, made of the gates alpha, theta and eta of the chunk's tokens.

    Equations 13 and 14 are linear in weights, momentum and gradients. Here they are unrolled as in equation 16.
    """
    forget, step, persist = logits_BNC3.unbind(-1)
    kept = F.logsigmoid(-forget).cumsum(-1)  # log of the product of 1 - alpha up to each token
    lasting = (F.logsigmoid(persist) + math.log(LARGEST_MOMENTUM)).cumsum(-1)  # the same for eta
    # The momentum after token t contains the gradient of an earlier token i times exp(lasting_t - lasting_i). At the
    # chunk's end, the weights contain the addition of token t times exp(kept_C - kept_t). `held` is the product of both
    # factors, summed over t from i to C.
    sums = (lasting - kept).flip(-1).logcumsumexp(-1).flip(-1) + kept[..., -1:]
    held = (sums - lasting).exp()
    # The steps of a chunk's tokens sum to 1 at most, so that a linear memory does not overshoot the minimum of half of
    # equation 12 within the chunk. Momentum adds further steps in the following chunks. One pair repeated chunk after
    # chunk converges as long as (keep - sum of to_weights) decay + carry * sum of to_momentum < 1. This value is .02 to
    # .09 in agents trained on T-Maze (eta .65 to .9). With chunks of a few tokens and eta near .98 it exceeds 1, and
    # then only `_bounded` limits the weights.
    theta = step.sigmoid()
    theta = theta / (theta * held).sum(-1, keepdim=True).clamp(min=1)
    return Gates(
        keep_BN=kept[..., -1].exp(),
        carry_BN=sums[..., 0].exp(),
        decay_BN=lasting[..., -1].exp(),
        to_weights_BNC=theta * held,
        to_momentum_BNC=theta * (lasting[..., -1:] - lasting).exp(),
    )


def _layers(weights: Matrices, x_BLD: Tensor) -> list[Tensor]:
    """Return the input of each matrix of M, followed by M's output."""
    inputs = [x_BLD]
    for matrix in weights[:-1]:
        inputs.append(torch.tanh(inputs[-1] @ matrix.mT) * matrix.shape[1] ** -0.5)
    return [*inputs, inputs[-1] @ weights[-1].mT]


def _answer(weights: Matrices, queries_BLD: Tensor) -> Tensor:
    """Return M(q), equation 15."""
    answers: Tensor = _layers(weights, queries_BLD)[-1]
    return answers


def _descend(
    weights: Matrices, momentum: Matrices, keys_BCD: Tensor, values_BCD: Tensor, gates: Gates
) -> tuple[Matrices, Matrices]:
    """Return weights and momentum at the end of a chunk. The gradient of every token is taken at `weights`."""
    keep, carry, decay, to_weights, to_momentum = gates
    *inputs, answers = _layers(weights, keys_BCD)
    delta = answers - values_BCD  # the derivative of half of equation 12 by M's output
    learnt = []
    for index in reversed(range(len(weights))):
        # A token's gradient is the outer product of delta and input, so weighted sums over tokens are matrix products.
        old, speed = weights[index], momentum[index]
        by_weights = torch.baddbmm(keep * old + carry * speed, (delta * -to_weights).mT, inputs[index])
        by_momentum = torch.baddbmm(decay * speed, (delta * -to_momentum).mT, inputs[index])
        learnt.append((_bounded(by_weights), _bounded(by_momentum)))
        if index:
            root = inputs[index].shape[-1] ** 0.5
            delta = (delta @ old) * ((1 - (root * inputs[index]).square()) / root)
    first, second = zip(*reversed(learnt), strict=True)
    return first, second


def _bounded(matrix_BOI: Tensor) -> Tensor:
    """Return the matrix, scaled down if the root mean square of its elements exceeds 2, twice the initial value.

    This bounds the state for any input: hidden units and keys lie in the unit ball, so bounded matrices give bounded
    answers, deltas and sums of gradients. The gradient through many chunks stays moderate as long as the memory
    converges, see `_gates`.
    """
    limit = 2 * math.sqrt(matrix_BOI.shape[1] * matrix_BOI.shape[2])
    norm_B11 = torch.linalg.vector_norm(matrix_BOI, dim=(1, 2), keepdim=True)
    if is_free_to_ask(norm_B11) and bool((norm_B11 <= limit).all()):
        return matrix_BOI  # as from below, without a product
    bounded: Tensor = matrix_BOI * (limit / norm_B11.clamp(min=limit))
    return bounded
