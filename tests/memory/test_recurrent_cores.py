"""LSTM and GRU layers: padding costs no precision, gates start by chrono, the agents' memory outlasts their segments.

Dimensions: B lanes, L tokens, D width, H width of the recurrent state.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rmt_rl.memory.gated_rnn import GatedConfig, GatedLayer, GRULayer, LSTMLayer, gated_rnn
from rmt_rl.recurrence import tree_leaves, tree_map

both = pytest.mark.parametrize("cls", [GRULayer, LSTMLayer])
WIDTH = 6


def make(cls: type[GatedLayer[Any]], remember: int = 9, **sizes: int) -> GatedLayer[Any]:
    torch.manual_seed(0)
    return cls(GatedConfig(width=WIDTH, **sizes), remember)


def random_state(layer: GatedLayer[Any], batch_size: int) -> Any:
    return tree_map(lambda leaf: torch.rand_like(leaf).mul(2).sub(1).requires_grad_(), layer.initial_state(batch_size))


@both
def test_padding_is_as_if_packed(cls: type[GatedLayer[Any]]) -> None:
    """Outputs, states and all gradients are those of PyTorch's packed sequences."""
    layer, lengths = make(cls).double(), torch.tensor([5, 2, 1])
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    state = random_state(layer, 3)
    y, after = layer.run(x, state, lengths)
    packed = pack_padded_sequence(x, lengths, batch_first=True)
    hidden = tree_leaves(tree_map(lambda leaf: leaf[None], state))
    y_packed, last = layer.rnn(packed, tuple(hidden) if len(hidden) > 1 else hidden[0])
    expected, _ = pad_packed_sequence(y_packed, batch_first=True)
    real = torch.arange(5) < lengths[:, None]
    inputs = [x, *tree_leaves(state), *layer.rnn.parameters()]
    ours = [y[real], *tree_leaves(after)]
    theirs = [expected[real], *(leaf[0] for leaf in tree_leaves(last))]
    for results in zip(ours, theirs, strict=True):
        torch.testing.assert_close(*results)
    for gradients in zip(
        torch.autograd.grad(torch.cat([part.sin().flatten() for part in ours]).sum(), inputs),
        torch.autograd.grad(torch.cat([part.sin().flatten() for part in theirs]).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(*gradients)


@both
def test_long_padding_keeps_the_state_to_the_last_bit(cls: type[GatedLayer[Any]]) -> None:
    """In float32, by the kernels that training uses: a gate that is nearly open would leak a little at every token."""
    layer, x = make(cls), torch.randn(2, 2000, WIDTH) * 100
    state = random_state(layer, 2)
    _, after = layer(x, state, torch.tensor([0, 0]))
    for kept, given in zip(tree_leaves(after), tree_leaves(state), strict=True):
        assert torch.equal(kept, given)


@both
def test_gates_start_by_keeping_up_to_the_times_asked_for(cls: type[GatedLayer[Any]]) -> None:
    """Without input, a channel keeps the share t / (1 + t) of its state per token, t uniform in [1, T - 1]."""
    layer = make(cls, remember=100, state=500)
    for name, parameter in layer.rnn.named_parameters():
        if name.startswith("weight"):
            nn.init.zeros_(parameter)
    bias = layer.rnn.get_parameter("bias_ih_l0").view(-1, 500)
    keeps = bias[1].sigmoid()  # forget gate of the LSTM, update gate of the GRU
    times = keeps / (1 - keeps)
    assert 1 <= times.min() < 3
    assert 97 < times.max() <= 99.01
    assert abs(times.mean() - 50) < 4
    if cls is LSTMLayer:
        torch.testing.assert_close(bias[0], -bias[1])
    ones = tree_map(torch.ones_like, layer.initial_state(1))
    _, after = layer(torch.zeros(1, 10, WIDTH), ones)
    kept, new = tree_leaves(after)[-1], torch.tanh(sum_of_biases(layer))
    expected = keeps**10 + (1 - keeps**10) * (new if cls is GRULayer else new * bias[0].sigmoid() / (1 - keeps))
    torch.testing.assert_close(kept[0], expected, rtol=1e-3, atol=1e-4)


def sum_of_biases(layer: GatedLayer[Any]) -> Tensor:
    """Return the source of the new value (the third gate in both) without input and with zero weights."""
    own, of_state = (layer.rnn.get_parameter(name).view(-1, 500) for name in ("bias_ih_l0", "bias_hh_l0"))
    if isinstance(layer, LSTMLayer):
        return own[2] + of_state[2]
    return own[2] + (own[0] + of_state[0]).sigmoid() * of_state[2]


@both
def test_a_bit_is_kept_over_many_segments(cls: type[GatedLayer[Any]]) -> None:
    """Learnt on 3 segments of 4 tokens of noise, held through 30."""
    torch.manual_seed(0)
    core = gated_rnn(cls, GatedConfig(width=8, layers=1), 12)
    optimizer = torch.optim.AdamW(core.parameters(), 1e-2)

    def answer(segments: int) -> tuple[Tensor, Tensor]:
        bits = torch.randint(0, 2, (64,)) * 2.0 - 1
        state, y = core.initial_state(64), torch.empty(0)
        for index in range(segments):
            x = torch.randn(64, 4, 8)
            x[:, :, 0] = 0
            x[:, 0, 0] = 3 * bits * (index == 0)
            y, state = core(x, state)
        return y[:, -1, 0], bits

    for _ in range(100):
        asked, bits = answer(3)
        optimizer.zero_grad()
        nn.functional.softplus(-asked * bits).mean().backward()
        optimizer.step()
    with torch.no_grad():
        asked, bits = answer(30)
    assert (asked.sign() == bits).float().mean() > 0.95
