"""Token shift by hand, across segments, and around and inside other cores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmt_rl.memory.gated_rnn import GatedConfig, GRULayer
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.nn.token_shift import Shifted, TokenShift
from rmt_rl.recurrence import Pointwise
from tests.nn.compositions import Core, every_check, fulfils, run

CONFIG = DecoderConfig(width=8, heads=2, dropout=0.1)


def tripled(width: int) -> TokenShift:
    """Around a layer that makes z + 2 z of z."""
    linear = nn.Linear(width, width, bias=False)
    linear.weight.data = 3 * torch.eye(width)
    return TokenShift(Pointwise(linear, width))


def test_by_hand() -> None:
    """The layer sees z = [1, 2, 0, 0] and [5, 6, 3, 4]; the outputs are x + 2 z."""
    core = tripled(4)
    y_BLD, state = core(torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]]), core.initial_state(1))
    assert y_BLD.tolist() == [[[3, 6, 3, 4], [15, 18, 13, 16]]]
    assert state.previous_BD.tolist() == [[5, 6, 7, 8]]
    y_BLD, _ = core(torch.zeros(1, 1, 4), state)
    assert y_BLD.tolist() == [[[0, 0, 14, 16]]]


@pytest.mark.parametrize(("width", "expected"), [(1, [3]), (3, [5 + 10, 6 + 12, 7 + 6])])
def test_of_an_odd_width_the_greater_part_stays(width: int, expected: list[float]) -> None:
    x_BLD = torch.tensor([[[1.0, 2, 3], [5, 6, 7]]])[..., :width]
    y_BLD = run(tripled(width), x_BLD if width > 1 else x_BLD[:, :1])
    assert y_BLD[0, -1].tolist() == expected


def test_the_last_real_token_is_carried() -> None:
    core = tripled(4)
    x_BLD = torch.randn(3, 5, 4)
    state = Shifted(torch.full((3, 4), 9.0), ())
    _, after = core(x_BLD, state, torch.tensor([5, 2, 0]))
    torch.testing.assert_close(after.previous_BD, torch.stack((x_BLD[0, 4], x_BLD[1, 1], state.previous_BD[2])))
    cache = core.begin(state, 3, 5)
    _, cache = core.step(x_BLD, cache, torch.tensor([5, 2, 0]))
    torch.testing.assert_close(core.end(cache).previous_BD, after.previous_BD)
    assert cache.previous_BD.data_ptr() != state.previous_BD.data_ptr()


def test_cut_anywhere_it_is_the_same() -> None:
    """Around a layer of which this holds."""
    torch.manual_seed(0)
    core, x_BLD = TokenShift(GRULayer(GatedConfig(width=8), remember=5)), torch.randn(2, 7, 8)
    first, state = core(x_BLD[:, :3], core.initial_state(2))
    torch.testing.assert_close(torch.cat((first, run(core, x_BLD[:, 3:], state)), 1), run(core, x_BLD))


def test_it_changes_the_layer_and_costs_no_parameters() -> None:
    layer = DecoderLayer(CONFIG).eval()
    core, x_BLD = TokenShift(layer), torch.randn(2, 5, 8)
    assert not torch.allclose(run(core, x_BLD), run(layer, x_BLD))
    assert list(core.parameters()) == list(layer.parameters())


def test_the_gradient_crosses_segments() -> None:
    core = TokenShift(DecoderLayer(CONFIG))
    x_BLD = torch.randn(2, 6, 8, requires_grad=True)
    _, state = core(x_BLD[:, :3], core.initial_state(2))
    (gradient,) = torch.autograd.grad(run(core, x_BLD[:, 3:], state)[:, 0].square().sum(), x_BLD)
    assert (gradient[:, 2, 4:] != 0).any()
    assert (gradient[:, :2] == 0).all()


COMPOSITIONS: dict[str, Any] = {
    "inside memory tokens": lambda: MemoryTokens(decoder(CONFIG, [TokenShift(DecoderLayer(CONFIG)) for _ in "12"]), 2),
    "around memory tokens": lambda: TokenShift(MemoryTokens(DecoderLayer(CONFIG), 2)),
    "around a cache": lambda: TokenShift(TransformerXLLayer(CONFIG, cached=4, stop_gradient=False)),
}


@every_check
@pytest.mark.parametrize("build", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_compositions_keep_the_contract(build: Any, check: Any) -> None:
    core: Core = build()
    fulfils(check, core)


def test_the_stream_itself_is_not_shifted() -> None:
    """A layer that adds nothing leaves every token as it was."""
    core: Core = TokenShift(Pointwise(Zero(4), 4))
    x_BLD = torch.randn(2, 5, 4)
    assert torch.equal(run(core, x_BLD), x_BLD)


class Zero(nn.Module):
    """Adds a learned vector, which is zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias
