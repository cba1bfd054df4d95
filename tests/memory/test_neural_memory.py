"""The neural memory by its equations, token by token; cut anywhere; bounded whatever it is fed; and that it holds.

Dimensions: B lanes, L tokens, C tokens of a chunk, D width.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl.errors import UsageError
from rmt_rl.memory.neural_memory import LARGEST_MOMENTUM, NeuralMemory, NeuralState
from rmt_rl.recurrence import put_lanes_, select_lanes, tree_leaves

B, D = 3, 8
DEPTHS = pytest.mark.parametrize("depth", [1, 2, 3, 4])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def lively(chunk: int, depth: int = 2, **options: Any) -> NeuralMemory:
    """A memory whose gates differ from token to token."""
    memory = NeuralMemory(D, chunk, depth, **options).double()
    with torch.no_grad():
        memory.to_gates.weight.normal_()
        memory.to_gates.bias.normal_()
    return memory


def tokens(length: int) -> Tensor:
    return torch.randn(B, length, D, dtype=torch.float64)


def assert_same(state: NeuralState, other: NeuralState) -> None:
    for left, right in zip(tree_leaves(state), tree_leaves(other), strict=True):
        torch.testing.assert_close(left, right)


def mlp(weights: list[Tensor], x_D: Tensor) -> Tensor:
    """M of one vector."""
    for matrix in weights[:-1]:
        x_D = torch.tanh(matrix @ x_D) / len(matrix) ** 0.5
    return weights[-1] @ x_D


def gates(memory: NeuralMemory, x_LD: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Alpha, theta and eta of one chunk's tokens (already normed), theta as the chunk limits it."""
    forget, theta, eta = memory.to_gates(x_LD).sigmoid().detach().unbind(-1)
    alpha, eta = forget, LARGEST_MOMENTUM * eta
    total = torch.zeros((), dtype=theta.dtype)
    for first in range(len(theta)):
        speed = weight = total * 0
        for place in range(first, len(theta)):  # what the chunk's end holds of this token's gradient
            speed = eta[place] * speed + (theta[place] if place == first else 0)
            weight = (1 - alpha[place]) * weight + speed
        total = total + weight
    return list(zip(alpha, theta / total.clamp(min=1), eta, strict=True))


def by_the_equations(memory: NeuralMemory, x_LD: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Answers, weights and momentum of one lane, by equations 13 to 15 and the gradient of half of equation 12."""
    silu = torch.nn.functional.silu
    weights = [matrix.detach().clone() for matrix in memory.initial]
    momentum, answers = [torch.zeros_like(matrix) for matrix in weights], []
    for chunk in memory.norm(x_LD).detach().split(memory.chunk):
        anchor = [matrix.clone().requires_grad_() for matrix in weights]
        for x_D, (alpha, theta, eta) in zip(chunk, gates(memory, chunk), strict=True):
            query, key = silu(memory.to_queries(x_D)), silu(memory.to_keys_values(x_D)[:D])
            answers.append(mlp(anchor, query / query.norm()))
            value = silu(memory.to_keys_values(x_D)[D:])
            loss = (mlp(anchor, key / key.norm()) - value).square().sum() / 2
            for index, gradient in enumerate(torch.autograd.grad(loss, anchor)):
                momentum[index] = eta * momentum[index] - theta * gradient
                weights[index] = (1 - alpha) * weights[index] + momentum[index]
    return answers, weights, momentum


@DEPTHS
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_are_the_recurrence_token_by_token(depth: int, chunk: int) -> None:
    memory, x = lively(chunk, depth, hidden_factor=1.5), tokens(12)
    y, state = memory(x, memory.initial_state(B))
    for lane in range(B):
        answers, weights, momentum = by_the_equations(memory, x[lane])
        torch.testing.assert_close(y[lane], memory.output(memory.output_norm(torch.stack(answers))))
        for index in range(depth):
            torch.testing.assert_close(state.weights[index][lane], weights[index])
            torch.testing.assert_close(state.momentum[index][lane], momentum[index])


def test_one_token_of_a_linear_memory_by_hand() -> None:
    """W = W_0 - theta (W_0 k - v) k^T."""
    memory = lively(1, depth=1)
    x = tokens(1)
    key, value = torch.nn.functional.silu(memory.to_keys_values(memory.norm(x))).chunk(2, -1)
    key = key / key.norm(dim=-1, keepdim=True)
    alpha, theta, _ = memory.to_gates(memory.norm(x)).sigmoid().unbind(-1)
    error = key @ memory.initial[0].mT - value
    expected = (1 - alpha)[..., None] * memory.initial[0] - theta[..., None] * error.mT @ key
    torch.testing.assert_close(memory(x, memory.initial_state(B))[1].weights[0], expected)


@DEPTHS
def test_segments_of_any_lengths_chained_equal_the_whole(depth: int) -> None:
    """States are cut in the middle of chunks, in each lane at another place."""
    memory, x, draw = lively(5, depth), tokens(37), random.Random(depth)
    whole, final = memory(x, memory.initial_state(B))
    places, state = torch.zeros(B, dtype=torch.long), memory.initial_state(B)
    outputs: list[list[Tensor]] = [[] for _ in range(B)]
    while (places < 37).any():
        lengths = torch.tensor([draw.randint(0, min(9, 37 - place)) for place in places.tolist()])
        segment = torch.full((B, 9, D), 1e6, dtype=torch.float64)
        for lane, (place, length) in enumerate(zip(places.tolist(), lengths.tolist(), strict=True)):
            segment[lane, :length] = x[lane, place : place + length]
        y, state = memory(segment, state, lengths)
        for lane, length in enumerate(lengths.tolist()):
            outputs[lane].append(y[lane, :length])
        places += lengths
    torch.testing.assert_close(torch.stack([torch.cat(parts) for parts in outputs]), whole)
    assert_same(state, final)


@torch.no_grad()
def test_step_by_step_for_any_split() -> None:
    memory, x = lively(5), tokens(23)
    whole, final = memory(x, memory.initial_state(B))
    cache, outputs = memory.begin(memory.initial_state(B), B, 23), []
    for part in x.split([1, 2, 7, 1, 1, 11], 1):
        y, cache = memory.step(part, cache)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    assert_same(memory.end(cache), final)


@torch.no_grad()
def test_step_by_step_with_lanes_in_different_chunks() -> None:
    memory, x, lane = lively(3), tokens(13), torch.tensor([1])
    cache = memory.begin(memory.initial_state(B), B, 20)
    _, ahead = memory.step(x[lane, :5], select_lanes(cache, lane))
    put_lanes_(cache, lane, ahead)
    shifted = x.clone()
    shifted[1, :8] = x[1, 5:]
    for place in range(8):
        lengths = torch.tensor([1, 1, place % 2])
        _, cache = memory.step(torch.cat((shifted[:, place, None], torch.full((B, 2, D), 1e6)), 1), cache, lengths)
    ends = [x[0, :8], x[1], shifted[2, 1:8:2]]
    for index, alone in enumerate(ends):
        _, expected = memory(alone[None], memory.initial_state(1))
        assert_same(select_lanes(memory.end(cache), torch.tensor([index])), expected)


def test_reading_and_writing_apart_are_the_forward() -> None:
    """While a segment stays within one chunk."""
    memory, x = lively(4), tokens(12)
    state = memory.initial_state(B)
    for part in x.split([4, 3, 1, 4], 1):
        y, after = memory(part, state)
        torch.testing.assert_close(memory.retrieve(part, state.weights), y)
        assert_same(memory.write(part, state), after)
        state = after


@DEPTHS
@torch.no_grad()
def test_what_is_written_is_remembered_better(depth: int) -> None:
    memory, x = NeuralMemory(D, 6, depth).double(), tokens(6)
    keys, values, _ = next(memory._chunks(x, 1, torch.float64))
    state, losses = memory.initial_state(B), []
    for _ in range(60):
        answers = torch.stack([torch.stack([mlp([w[b] for w in state.weights], k) for k in keys[b]]) for b in range(B)])
        losses.append(float((answers - values).square().mean()))
        state = memory.write(x, state)
    assert losses[-1] < 0.5 * losses[0]
    assert sorted(losses[::20], reverse=True) == losses[::20]


@torch.no_grad()
def test_what_isnt_written_over_is_held_over_a_hundred_thousand_tokens() -> None:
    """With the forgetting gate as it is at first."""
    memory = NeuralMemory(D, 100, depth=1)
    state = memory.write(torch.randn(B, 300, D), memory.initial_state(B))
    state = state._replace(momentum=tuple(torch.zeros_like(part) for part in state.momentum))
    memory.to_gates.weight.zero_()
    memory.to_gates.bias[1] = -200
    later = state
    for _ in range(10):
        later = memory.write(1e3 * torch.randn(B, 10_000, D), later)
    for old, new in zip(state.weights, later.weights, strict=True):
        torch.testing.assert_close(new, 0.905 * old, rtol=0.01, atol=1e-4)


def test_first_gates_forget_little_and_the_first_weights_are_learnt() -> None:
    memory, x = NeuralMemory(D, 6), torch.randn(B, 12, D)
    y, state = memory(x, memory.initial_state(B))
    kept = [part.norm() / first.norm() for part, first in zip(state.weights, memory.initial, strict=True)]
    assert kept[0] > 0.97 * B**0.5
    y[:, 6:].square().sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_state_is_at_least_float32() -> None:
    for memory in (NeuralMemory(D, 4), NeuralMemory(D, 4).bfloat16()):
        x = torch.randn(B, 10, D, dtype=memory.output.weight.dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, state = memory(x, memory.initial_state(B))
        assert y.isfinite().all()
        assert {leaf.dtype for leaf in (*state.weights, *state.momentum)} == {torch.float32}
        assert state.tokens_BCD.dtype == x.dtype


def assert_bounded(state: NeuralState) -> None:
    for leaf in (*state.weights, *state.momentum):
        assert leaf.isfinite().all()
        assert leaf.square().mean((1, 2)).max() <= 4.001


def adversaries(length: int) -> Tensor:
    """Lanes of noise, of one token again and again, and of large tokens whose sign alternates."""
    signs = 1 - 2 * (torch.arange(length) % 2)
    return torch.stack(
        (torch.randn(length, D), torch.randn(D).expand(length, -1), 1e4 * signs[:, None] * torch.randn(D))
    )


def run_open(depth: int, segments: int, length: int, chunk: int) -> None:
    """With gates as wide open as they go, or as they are at first; in training and under bf16 autocast."""
    for bias in (None, torch.tensor([-9.0, 9.0, 9.0])):
        memory = NeuralMemory(D, chunk, depth)
        if bias is not None:
            memory.to_gates.bias.data.copy_(bias)
        state = memory.initial_state(B)
        for index in range(segments):
            x = adversaries(length)
            with torch.set_grad_enabled(index == segments - 1), torch.autocast("cpu", dtype=torch.bfloat16):
                y, state = memory(x, state)
        assert y.isfinite().all()
        assert_bounded(state)
        (y.float().square().mean() + sum(leaf.square().mean() for leaf in state.weights)).backward()
        for parameter in memory.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_bounded_over_a_long_row(depth: int) -> None:
    run_open(depth, segments=1, length=4096, chunk=64)


@pytest.mark.parametrize(
    ("depth", "segments"), [(4, 100), *(pytest.param(depth, 10_000, marks=pytest.mark.slow) for depth in (1, 2, 4))]
)
def test_bounded_over_many_segments(depth: int, segments: int) -> None:
    run_open(depth, segments, length=6, chunk=6)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(UsageError, match="depth=0 and chunk=4 must be at least 1"):
        NeuralMemory(D, 4, depth=0)
    with pytest.raises(UsageError, match=r"forgetting=0 must be from 1e-12 to 0\.999"):
        NeuralMemory(D, 4, forgetting=0)
