"""The Transformer-XL cache against plain attention over all tokens, its options, and GTrXL's gates by their formulas.

Dimensions: B lanes, L tokens of a segment, N tokens of the cache, D width, H heads, E width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl.memory.gated_transformer_xl import GATES, GatedTransformerXLLayer, GateName, GRUGate
from rmt_rl.memory.transformer_xl import Hidden, TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.recurrence import tree_leaves

B, L, D, H = 2, 4, 8, 2
E = D // H
CONFIG = DecoderConfig(width=D, heads=H)
Layer = TransformerXLLayer


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def layer(cached: int = L, cls: Any = Layer, **options: Any) -> Any:
    return cls(CONFIG, cached, **options).double()


def tokens(segments: int, length: int = L) -> Tensor:
    return torch.randn(B, segments * length, D, dtype=torch.float64)


def run(core: Layer, x_BLD: Tensor, state: Hidden | None = None, length: int = L) -> tuple[list[Tensor], Hidden]:
    """Each segment's outputs, and the last state."""
    state, outputs = core.initial_state(len(x_BLD)) if state is None else state, []
    for part in x_BLD.split(length, 1):
        y_BLD, state = core(part, state)
        outputs.append(y_BLD)
    return outputs, state


def attended(core: Layer, rows_SD: Tensor, distances_S: Tensor, x_D: Tensor) -> Tensor:
    """The layer's output for one token x that sees these rows at these distances: every angle from its formula."""

    def turned(vector_HE: Tensor, place: float) -> Tensor:
        angles = place * 10_000.0 ** (-torch.arange(0, E, 2, dtype=torch.float64) / E)
        even, odd = vector_HE[:, 0::2], vector_HE[:, 1::2]
        pairs = even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()
        return torch.stack(pairs, -1).flatten(1)

    to_queries, to_keys = core.to_queries_keys.weight.chunk(2)
    query_HE = (to_queries @ core.attention_norm(x_D)).view(H, E)
    normed_SD = core.attention_norm(rows_SD)
    keys = [turned((to_keys @ each).view(H, E), -float(far)) for each, far in zip(normed_SD, distances_S, strict=True)]
    scores_SH = torch.stack([(query_HE * key_HE).sum(1) / math.sqrt(E) for key_HE in keys])
    values_SHE = core.to_values(normed_SD).view(-1, H, E)
    heads_HE = (scores_SH.softmax(0)[..., None] * values_SHE).sum(0)
    return core.finish(x_D, heads_HE)


@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
@torch.no_grad()
def test_a_cached_token_stands_at_its_true_distance(cache: Any) -> None:
    """In lanes whose caches hold 1 of 5 and 3 of 5 tokens, by a formula that knows distances only."""
    core = layer(5, cache=cache)
    before, x = tokens(1), tokens(1)
    counts = [1, 3]
    _, state = core(before, core.initial_state(B), torch.tensor(counts))
    y, _ = core(x, state)
    for lane, count in enumerate(counts):
        for place in range(L):
            row = torch.cat((before[lane, :count], x[lane, : place + 1]))
            distances = torch.arange(len(row) - 1, -1, -1)
            torch.testing.assert_close(y[lane, place], attended(core, row, distances, x[lane, place]))


@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
@torch.no_grad()
def test_only_the_last_n_tokens_are_seen(cache: Any) -> None:
    core, x = layer(3, cache=cache), tokens(3)
    last = run(core, x)[0][-1]
    row = x[0, 2 * L - 3 : 2 * L + 2]
    torch.testing.assert_close(last[0, 1], attended(core, row, torch.arange(4, -1, -1), x[0, 2 * L + 1]))


@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
@torch.no_grad()
def test_nothing_depends_on_how_many_tokens_came_before(cache: Any) -> None:
    """A full cache is the same wherever the episode stands: positions are relative."""
    core, x = layer(L, cache=cache), tokens(3)
    early, state = run(core, x)
    late, later = run(core, torch.cat((tokens(5), x), 1))
    torch.testing.assert_close(late[-2:], early[-2:])
    for a, b in zip(tree_leaves(later), tree_leaves(state), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cls", [Layer, GatedTransformerXLLayer])
@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
@torch.no_grad()
def test_segments_of_any_length_chain_to_the_whole(cls: Any, cache: Any) -> None:
    """As long as the cache isn't full; the whole is the layer without a cache."""
    core, x = layer(3 * L, cls, cache=cache), tokens(3)
    whole, _ = core(x, core.initial_state(B))
    for length in (1, 3, L, 2 * L):
        torch.testing.assert_close(torch.cat(run(core, x, length=length)[0], 1), whole)
    if cls is Layer:
        plain = DecoderLayer(CONFIG).double()
        plain.load_state_dict(core.state_dict())
        torch.testing.assert_close(whole, plain(x, ())[0])


@pytest.mark.parametrize("recurrence", ["ordinary", "enhanced"])
@torch.no_grad()
def test_keys_and_values_give_what_hidden_states_give(recurrence: Any) -> None:
    core = layer(6, recurrence=recurrence)
    other = layer(6, cache="keys_values", recurrence=recurrence)
    other.load_state_dict(core.state_dict())
    state, others = core.initial_state(B), other.initial_state(B)
    lengths = torch.tensor([L, 1])  # the caches of the two lanes fill at different paces
    for part in tokens(4).split(L, 1):
        y, state = core(part, state, lengths)
        y_other, others = other(part, others, lengths)
        for lane, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(y_other[lane, :length], y[lane, :length])


def gradients_of_last(core: Layer, x_BLD: Tensor) -> Tensor:
    """The last segment's gradient by every token: its mean size (segments, L)."""
    x = x_BLD.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(run(core, x)[0][-1].square().sum(), x)
    sizes: Tensor = gradient.norm(dim=-1).mean(0).view(-1, L)
    return sizes


@pytest.mark.parametrize("recurrence", ["ordinary", "enhanced"])
@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
def test_the_gradient_stops_or_passes_as_asked(cache: Any, recurrence: Any) -> None:
    x = tokens(5)
    stopped = gradients_of_last(layer(L, cache=cache, recurrence=recurrence), x)
    assert (stopped[:-1] == 0).all()
    assert (stopped[-1] > 0).all()
    let_through = gradients_of_last(layer(L, cache=cache, recurrence=recurrence, stop_gradient=False), x)
    reached = (let_through > 0).all(1).tolist()
    assert reached == [recurrence == "enhanced"] * 3 + [True] * 2
    for stop in (True, False):
        core = layer(L, cache=cache, recurrence=recurrence, stop_gradient=stop)
        begun = core.begin(run(core, x.requires_grad_())[1], B, L)
        assert begun.hidden_BND.requires_grad is not stop


@pytest.mark.parametrize("recurrence", ["ordinary", "enhanced"])
def test_let_through_the_gradient_is_the_same_for_both_caches(recurrence: Any) -> None:
    """And stopped it isn't: hidden states still train the weights of keys, keys that are kept don't."""
    gradients: dict[Any, Any] = {}
    x = tokens(3)
    for stop in (False, True):
        for cache in ("hidden", "keys_values"):
            torch.manual_seed(0)
            core = layer(L, cache=cache, recurrence=recurrence, stop_gradient=stop)
            run(core, x)[0][-1].square().sum().backward()
            gradients[stop, cache] = core.to_queries_keys.weight.grad
    torch.testing.assert_close(gradients[False, "hidden"], gradients[False, "keys_values"])
    assert not torch.allclose(gradients[True, "hidden"], gradients[True, "keys_values"])


@torch.no_grad()
def moved(core: Any, x_BLD: Tensor, token: int = 0) -> list[bool]:
    """Return the segments whose outputs change with one token."""
    other = x_BLD.clone()
    other[:, token] += 1
    return [not torch.equal(a, b) for a, b in zip(run(core, x_BLD)[0], run(core, other)[0], strict=True)]


@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
def test_enhanced_recurrence_makes_one_layer_reach_without_bound(cache: Any) -> None:
    """A cache of one segment; with the ordinary recurrence the reach is one segment back for each layer."""
    x = tokens(9)
    assert moved(layer(L, cache=cache), x) == [True] * 2 + [False] * 7
    assert moved(layer(L, cache=cache, recurrence="enhanced"), x) == [True] * 9


@torch.no_grad()
def test_enhanced_recurrence_attends_to_the_outputs_of_the_segment_before() -> None:
    core = layer(3, recurrence="enhanced")
    x = tokens(2)
    (first, second), _ = run(core, x)
    row = torch.cat((first[0, -3:], x[0, L : L + 2]))
    torch.testing.assert_close(second[0, 1], attended(core, row, torch.arange(4, -1, -1), x[0, L + 1]))


# Gates


def by_hand(name: GateName, gate: Any, x: Tensor, y: Tensor) -> Tensor:
    """g(x, y) of arXiv 1910.06764, section 3.2, token by token."""
    sigmoid = torch.sigmoid
    if name == "gru":
        w_r, w_z, w_g = gate.from_branch.weight.chunk(3)
        u_r, u_z = gate.from_stream.weight.chunk(2)
        r, z = sigmoid(w_r @ y + u_r @ x), sigmoid(w_z @ y + u_z @ x - gate.bias)
        return (1 - z) * x + z * torch.tanh(w_g @ y + gate.from_reset.weight @ (r * x))
    w = gate.gate.weight
    if name == "input":
        return sigmoid(w @ x) * x + y
    if name == "output":
        return x + sigmoid(w @ x - gate.bias) * y
    if name == "highway":
        return sigmoid(w @ x + gate.bias) * x + (1 - sigmoid(w @ x + gate.bias)) * y
    return x + sigmoid(w @ y - gate.bias) * torch.tanh(gate.value.weight @ y)


@pytest.mark.parametrize("name", GATES)
@torch.no_grad()
def test_each_gate_is_its_formula(name: GateName) -> None:
    """Each gate joins the stream and the output of the submodule behind a ReLU."""
    gate, x, y = GATES[name](D).double(), torch.randn(D).double(), torch.randn(D).double()
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    torch.testing.assert_close(gate(x, y), by_hand(name, gate, x, y.clamp(min=0)))


def distance(core: Any, x_BLD: Tensor) -> float:
    """Return the distance by which the layer moves its tokens, as a share of their length."""
    y_BLD, _ = core(x_BLD, core.initial_state(B))
    return float((y_BLD - x_BLD).norm() / x_BLD.norm())


@pytest.mark.parametrize("name", [name for name in GATES if name != "input"])
@torch.no_grad()
def test_a_gated_layer_begins_near_the_identity(name: GateName) -> None:
    """Nearer than with the bias at zero, where half of a branch comes in."""
    core, x = layer(cls=GatedTransformerXLLayer, gate=name), tokens(1)
    near = distance(core, x)
    for residual in (core.attention_residual, core.feed_forward_residual):
        residual.bias.zero_()
    assert near < 0.3
    assert near < 0.5 * distance(core, x)


@torch.no_grad()
def test_a_closed_gate_is_the_identity_whatever_the_submodules_say() -> None:
    core, x = layer(cls=GatedTransformerXLLayer), tokens(3)
    for residual in (core.attention_residual, core.feed_forward_residual):
        assert isinstance(residual, GRUGate)
        assert (residual.bias == 2).all()
        residual.bias.fill_(100.0)
    torch.testing.assert_close(torch.cat(run(core, x)[0], 1), x)
