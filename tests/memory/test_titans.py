"""The three Titans layers: attention by its formula, windows and memories that go on however a sequence is cut.

Dimensions: B lanes, L tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl.analysis.sizes import SPEC
from rmt_rl.errors import UsageError
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.memory.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from rmt_rl.nn.decoder import DecoderConfig
from rmt_rl.recurrence import tree_leaves
from rmt_rl.registry import agent_class

B, D, HEADS, PERSISTENT = 2, 16, 2, 3
CONFIG = DecoderConfig(width=D, heads=HEADS)
WINDOWED = pytest.mark.parametrize("cls", [MemoryAsGate, MemoryAsLayer])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(cls: Any, *window: int, chunk: int = 4) -> Any:
    """A layer whose memory's gates differ from token to token."""
    layer = cls(CONFIG, NeuralMemory(D, chunk), PERSISTENT, *window).double()
    with torch.no_grad():
        layer.memory.to_gates.weight.normal_()
        layer.memory.to_gates.bias.fill_(-1)
        if cls is MemoryAsGate:
            layer.gate.weights_2D.normal_()
    return layer


def tokens(length: int, lanes: int = B) -> Tensor:
    return torch.randn(lanes, length, D, dtype=torch.float64)


def turned(x_E: Tensor, place: int) -> Tensor:
    """Rotary position (RoFormer, arXiv 2104.09864, equation 34) of the faster half of the channel pairs."""
    out, width = x_E.clone(), len(x_E)
    for pair in range(width // 4):
        angle = place * 10_000 ** (-2 * pair / width)
        a, b = x_E[2 * pair], x_E[2 * pair + 1]
        out[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attended(layer: Any, x_D: Tensor, place: int, others: list[tuple[Tensor, int]]) -> Tensor:
    """Return the value that the token at a place reads of the persistent tokens and of others at given places."""
    norm, width = layer.attention_norm, D // HEADS
    to_q, to_k = layer.to_queries_keys.weight.chunk(2)
    heads = []
    for head in range(HEADS):
        channels = slice(head * width, (head + 1) * width)
        query = (to_q @ norm(x_D))[channels]
        scores, values = [], []
        for persistent_D in layer.persistent_PD:
            unturned = slice(2 * (width // 4), width)
            scores.append(query[unturned] @ (to_k @ norm(persistent_D))[channels][unturned])
            values.append((layer.to_values(norm(persistent_D)))[channels])
        for other_D, at in others:
            scores.append(turned(query, place) @ turned((to_k @ norm(other_D))[channels], at))
            values.append(layer.to_values(norm(other_D))[channels])
        weights = torch.stack(scores).div(math.sqrt(width)).softmax(0)
        heads.append(weights @ torch.stack(values))
    read: Tensor = layer.from_heads(torch.cat(heads))
    return read


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def finished(layer: Any, x_D: Tensor) -> Tensor:
    fed: Tensor = x_D + layer.feed_forward(x_D)
    return fed


@torch.no_grad()
def test_mac_is_its_equations() -> None:
    """Numbers 21 to 25, in a second segment: the memory that is read is the first's."""
    layer, x = make(MemoryAsContext, chunk=2), tokens(5)
    _, state = layer(tokens(5), layer.initial_state(B))
    y, after = layer(x, state)
    h = layer.memory.retrieve(x, state.weights)
    reads = torch.zeros_like(x)
    for lane in range(B):
        for place in range(5):
            seen = [(row[lane, at], at) for row in (h, x) for at in range(place + 1)]
            reads[lane, place] = attended(layer, x[lane, place], place, seen)
    answers = layer.memory.retrieve(x + reads, state.weights)
    gated = layer.gate.norm(reads) * 2 * sigmoid(answers)
    torch.testing.assert_close(y, finished(layer, x + gated))
    expected = layer.memory.write(x + reads, state)
    for left, right in zip(tree_leaves(after), tree_leaves(expected), strict=True):
        torch.testing.assert_close(left, right)


@WINDOWED
@torch.no_grad()
def test_mag_and_mal_are_their_equations(cls: Any) -> None:
    """Numbers 26 to 31."""
    layer, x = make(cls, 3), tokens(7)
    y, _ = layer(x, layer.initial_state(B))
    answers, _ = layer.memory(x, layer.memory.initial_state(B))
    into = x + answers if cls is MemoryAsLayer else x
    for lane in range(B):
        for place in range(7):
            seen = [(into[lane, at], at) for at in range(max(0, place - 2), place + 1)]
            reads = attended(layer, into[lane, place], place, seen)
            if cls is MemoryAsGate:
                (by_y, by_answer), answer = layer.gate.weights_2D, answers[lane, place]
                reads = layer.gate.norm(reads)
                gate = sigmoid(by_y * reads + by_answer * answer)
                reads = gate * reads + (1 - gate) * answer
            torch.testing.assert_close(y[lane, place], finished(layer, into[lane, place] + reads))


@WINDOWED
@pytest.mark.parametrize("window", [1, 2, 6, 40])
def test_segments_of_any_lengths_chained_equal_the_whole(cls: Any, window: int) -> None:
    layer, x, draw = make(cls, window), tokens(31), random.Random(window)
    whole, _ = layer(x, layer.initial_state(B))
    places, state = [0] * B, layer.initial_state(B)
    outputs: list[list[Tensor]] = [[] for _ in range(B)]
    while min(places) < 31:
        lengths = [draw.randint(0, min(7, 31 - place)) for place in places]
        segment = torch.full((B, 7, D), 1e3, dtype=torch.float64)
        for lane, (place, length) in enumerate(zip(places, lengths, strict=True)):
            segment[lane, :length] = x[lane, place : place + length]
        y, state = layer(segment, state, torch.tensor(lengths))
        for lane, length in enumerate(lengths):
            outputs[lane].append(y[lane, :length])
        places = [place + length for place, length in zip(places, lengths, strict=True)]
    torch.testing.assert_close(torch.stack([torch.cat(parts) for parts in outputs]), whole)


@WINDOWED
def test_the_gradient_crosses_segments_as_in_the_whole(cls: Any) -> None:
    layer, x = make(cls, 6), tokens(14).requires_grad_()
    whole, _ = layer(x, layer.initial_state(B))
    (expected,) = torch.autograd.grad(whole.square().sum(), x)
    state, outputs = layer.initial_state(B), []
    for part in x.split([5, 1, 6, 2], 1):
        y, state = layer(part, state)
        outputs.append(y)
    (gradient,) = torch.autograd.grad(torch.cat(outputs, 1).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


@WINDOWED
def test_attention_sees_its_window_and_no_more(cls: Any) -> None:
    layer, x = make(cls, 4), tokens(12).requires_grad_()
    layer.memory.output.weight.data.zero_()
    y, _ = layer(x, layer.initial_state(B))
    for place in (1, 5, 11):
        (gradient,) = torch.autograd.grad(y[:, place].square().sum(), x, retain_graph=True)
        seen = gradient.abs().sum((0, 2)) > 0
        assert seen.tolist() == [max(0, place - 3) <= other <= place for other in range(12)]


@torch.no_grad()
def test_persistent_tokens_are_seen_alike_from_every_place() -> None:
    layer = make(MemoryAsLayer, 1)
    layer.memory.output.weight.zero_()
    y, _ = layer(tokens(1).expand(-1, 200, -1), layer.initial_state(B))
    torch.testing.assert_close(y, y[:, :1].expand_as(y))
    layer.persistent_PD.zero_()
    other, _ = layer(tokens(1).expand(-1, 200, -1), layer.initial_state(B))
    assert (other - y).abs().min() > 0


@torch.no_grad()
def test_what_a_mac_segment_writes_is_read_from_the_next_on() -> None:
    """Its outputs don't depend on how many chunks its own tokens fill, what follows does."""
    x, ys = tokens(8), []
    for chunk in (2, 8):
        torch.manual_seed(1)
        layer = make(MemoryAsContext, chunk=chunk)
        first, state = layer(x, layer.initial_state(B))
        second, _ = layer(x, state)
        ys.append((first, second))
    torch.testing.assert_close(ys[0][0], ys[1][0])
    assert (ys[0][1] - ys[1][1]).abs().max() > 1e-4
    assert (ys[0][1] - ys[0][0]).abs().max() > 1e-4


@pytest.mark.parametrize(("cls", "window"), [(MemoryAsContext, ()), (MemoryAsGate, (3,)), (MemoryAsLayer, (3,))])
def test_every_parameter_learns(cls: Any, window: tuple[int, ...]) -> None:
    layer = make(cls, *window)
    state = layer.initial_state(B)
    for _ in range(3):
        y, state = layer(tokens(5), state)
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_narrow_heads_are_named() -> None:
    config = DecoderConfig(width=8, heads=4)
    with pytest.raises(UsageError, match="heads of width 2 are too narrow"):
        MemoryAsContext(config, NeuralMemory(8, 4), 1)


def test_a_chunk_that_no_segment_fills_is_refused() -> None:
    """With 3 segments in training, a memory that is first read after the second would never learn what to write."""
    titans: Any = agent_class("titans_mac")
    assert titans(titans.Config(segment_length=4, width=16, chunk=12), SPEC).capacity == 12
    with pytest.raises(UsageError, match=r"chunk=13 is more than the 12 tokens .*segment_length=4.*lower chunk"):
        titans(titans.Config(segment_length=4, width=16, chunk=13), SPEC)
