"""Each variant of the Memory Retention Valve by its formula, and that memory tokens don't stay or become one.

Dimensions: B lanes, M memory tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.memory.valve import (
    VALVES,
    CrossAttention1,
    CrossAttention2,
    GateValve,
    GRUValve,
    HardGateValve,
    LSTMValve,
    ValveName,
)
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder

B, M, D, HEADS = 2, 3, 8, 2


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def memories() -> tuple[Tensor, Tensor]:
    """Return the memory that was read and the memory that was written."""
    return torch.randn(B, M, D, dtype=torch.float64), torch.randn(B, M, D, dtype=torch.float64)


def attended(attention: nn.MultiheadAttention, asking_BMD: Tensor, answering_BMD: Tensor) -> Tensor:
    """Multi-head attention (arXiv 1706.03762, section 3.2) one head, lane and token at a time."""
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    q, k, v = (
        x @ weight.T + bias
        for x, weight, bias in zip((asking_BMD, answering_BMD, answering_BMD), weights, biases, strict=True)
    )
    heads = torch.zeros_like(asking_BMD)
    for b in range(B):
        for channels in torch.arange(D).chunk(HEADS):
            for m in range(M):
                scores = k[b][:, channels] @ q[b, m, channels] / math.sqrt(D // HEADS)
                heads[b, m, channels] = scores.softmax(0) @ v[b][:, channels]
    return heads @ attention.out_proj.weight.T + attention.out_proj.bias


def make(cls: Any) -> Any:
    valve = cls(D, HEADS).double()
    for parameter in valve.parameters():
        nn.init.normal_(parameter, std=0.5)
    return valve


def test_none_keeps_the_new_memory() -> None:
    old, new = memories()
    kept, _ = VALVES["none"](D, HEADS)(old, new, ())
    assert torch.equal(kept, new)


def test_ca_2_lets_the_old_memory_ask_the_new_one() -> None:
    valve, (old, new) = make(CrossAttention2), memories()
    torch.testing.assert_close(valve(old, new, ())[0], attended(valve.attention, old, new))


def test_ca_1_lets_the_new_memory_ask_the_old_one() -> None:
    valve, (old, new) = make(CrossAttention1), memories()
    torch.testing.assert_close(valve(old, new, ())[0], attended(valve.attention, new, old))


def test_gate_mixes_channel_by_channel() -> None:
    valve, (old, new) = make(GateValve), memories()
    gate = torch.sigmoid(torch.cat((old, new), -1) @ valve.gate.weight.T + valve.gate.bias)
    torch.testing.assert_close(valve(old, new, ())[0], gate * new + (1 - gate) * old)


def test_a_hard_gate_keeps_what_it_is_shut_for_bit_for_bit() -> None:
    valve, (old, new) = make(HardGateValve), memories()
    with torch.no_grad():
        valve.gate.bias[: D // 2] = -50
        valve.gate.bias[D // 2] = 50
    kept, _ = valve(old, new, ())
    soft = torch.sigmoid(torch.cat((old, new), -1) @ valve.gate.weight.T + valve.gate.bias)
    gate = (1.2 * soft - 0.1).clamp(0, 1)
    torch.testing.assert_close(kept, gate * new + (1 - gate) * old)
    assert torch.equal(kept[..., : D // 2], old[..., : D // 2])
    torch.testing.assert_close(kept[..., D // 2], new[..., D // 2])


def test_gru_takes_the_new_memory_as_input() -> None:
    """r, z, n as in arXiv 1406.1078, in the arrangement of torch.nn.GRUCell."""
    valve, (old, new) = make(GRUValve), memories()
    cell = valve.cell
    inputs = (new @ cell.weight_ih.T + cell.bias_ih).chunk(3, -1)
    hiddens = (old @ cell.weight_hh.T + cell.bias_hh).chunk(3, -1)
    reset, update = (torch.sigmoid(inputs[i] + hiddens[i]) for i in (0, 1))
    candidate = torch.tanh(inputs[2] + reset * hiddens[2])
    torch.testing.assert_close(valve(old, new, ())[0], (1 - update) * candidate + update * old)


def test_lstm_carries_its_cell_from_segment_to_segment() -> None:
    valve, (old, new) = make(LSTMValve), memories()
    weights = valve.cell
    state = valve.initial_state(old)
    assert torch.equal(state, torch.zeros(B, M, D, dtype=torch.float64))
    hidden, cell = old, state
    for _ in range(2):
        gates = new @ weights.weight_ih.T + weights.bias_ih + hidden @ weights.weight_hh.T + weights.bias_hh
        enter, forget, candidate, out = gates.chunk(4, -1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
        hidden_before, hidden = hidden, torch.sigmoid(out) * torch.tanh(cell)
        kept, state = valve(hidden_before, new, state)
        torch.testing.assert_close(kept, hidden)
        torch.testing.assert_close(state, cell)


@pytest.mark.parametrize("cls", [CrossAttention1, CrossAttention2])
def test_heads_that_do_not_divide_the_width_are_named(cls: Any) -> None:
    with pytest.raises(UsageError, match="valve_heads=3 must divide width=8"):
        cls(8, 3)


def core_with(name: ValveName) -> MemoryTokens:
    config = DecoderConfig(width=D, heads=HEADS)
    return MemoryTokens(decoder(config, [DecoderLayer(config)]), M, name, HEADS)


def closest(tokens_MD: Tensor) -> float:
    """The least distance between two tokens, as a share of their length."""
    return float(nn.functional.pdist(tokens_MD).min() / tokens_MD.norm(dim=-1).mean())


@pytest.mark.parametrize("name", VALVES)
def test_the_first_memory_s_tokens_differ_and_learn_apart(name: ValveName) -> None:
    """Equal tokens would get equal gradients and stay one token for ever."""
    core, segments = core_with(name), torch.randn(3, B, 5, D)
    optimizer = torch.optim.SGD(core.parameters(), 0.1)
    for _ in range(4):
        state, loss = core.initial_state(B), torch.zeros(())
        for x_BLD in segments:
            y_BLD, state = core(x_BLD, state)
            loss = loss + (y_BLD - x_BLD.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert core.memory_MD.grad is not None
        assert closest(core.memory_MD.detach()) > 0.1
        assert closest(core.memory_MD.grad) > 0.1
        optimizer.step()


COLLAPSE = pytest.mark.xfail(reason="near-equal queries get near-equal answers: see CrossAttention2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[COLLAPSE] if name.startswith("ca-") else []) for name in VALVES]
)
@torch.no_grad()
def test_tokens_still_differ_after_several_segments(name: ValveName) -> None:
    core = core_with(name)
    state = core.initial_state(B)
    for x_BLD in torch.randn(6, B, 5, D):
        _, state = core(x_BLD, state)
    assert min(closest(memory_MD) for memory_MD in state.memory_BMD) > 0.01
