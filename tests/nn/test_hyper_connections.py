"""Hyper-connections by their formula, and plain residual layers at first."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.nn.hyper_connections import HyperConnection, hyper_connected
from rmt_rl.nn.token_shift import TokenShift
from rmt_rl.recurrence import Pointwise, SegmentRecurrent, Stack
from tests.nn.compositions import Core, every_check, fulfils, run

CONFIG = DecoderConfig(layers=3, width=8, heads=2)


def layers(config: DecoderConfig = CONFIG) -> list[SegmentRecurrent[Any, Any]]:
    return [DecoderLayer(config) for _ in range(config.layers)]


def trained(core: Core) -> Core:
    """As if it had learnt: all that begins at zero is random."""
    for module in core.modules():
        if isinstance(module, HyperConnection):
            nn.init.normal_(module.to_weights.weight)
            nn.init.constant_(module.scales_2, 0.5)
    return core


@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("norm", [False, True])
def test_at_first_it_is_the_plain_stack(streams: int, norm: bool) -> None:
    torch.manual_seed(0)
    plain = layers()
    x_BLD = torch.randn(2, 5, 8, dtype=torch.float64)
    hyper = hyper_connected(copy.deepcopy(plain), streams)
    core, expected = (decoder(CONFIG, each) if norm else Stack(each) for each in (hyper, plain))
    torch.testing.assert_close(run(core.double(), x_BLD), run(expected.double(), x_BLD), rtol=1e-12, atol=1e-12)


def test_what_it_has_learnt_changes_it() -> None:
    torch.manual_seed(0)
    core, x_BLD = Stack(hyper_connected(layers(), 2)), torch.randn(2, 5, 8)
    before = run(core, x_BLD)
    assert not torch.allclose(run(trained(core), x_BLD), before)


def test_by_its_formula() -> None:
    """Two streams of width 3, number by number, around a layer z + M z."""
    torch.manual_seed(0)
    linear = nn.Linear(3, 3, bias=False)
    core = HyperConnection(Pointwise(linear, 3), streams=2, index=1).double()
    nn.init.normal_(core.to_weights.weight)
    core.scales_2.data = torch.tensor([0.3, 0.7], dtype=torch.float64)
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    streams = [x[0, 0, :3], x[0, 0, 3:]]
    small = [(core.to_weights.weight @ nn.functional.layer_norm(h, (3,))).tanh() for h in streams]
    start = torch.tensor([[0, 1, 0], [1, 0, 1]])  # layer 1 reads stream 1; each stream goes to itself
    alpha = [[start[s, r] + 0.3 * small[s][r] for r in range(3)] for s in range(2)]
    beta = [1 + 0.7 * small[s][3] for s in range(2)]
    z = sum(alpha[s][0] * streams[s] for s in range(2))
    contribution = linear(z) - z
    mixed = [sum(alpha[s][1 + t] * streams[s] for s in range(2)) + beta[t] * contribution for t in range(2)]
    torch.testing.assert_close(run(core, x)[0, 0], torch.cat([torch.as_tensor(part) for part in mixed]))


def test_layers_read_the_streams_in_turn() -> None:
    """And the dynamic part begins at nothing, with a small scale: the paper's initialisation."""
    cores = hyper_connected(layers(CONFIG.model_copy(update={"layers": 5})), 3)[1:-1]
    for index, core in enumerate(cores):
        assert isinstance(core, HyperConnection)
        assert core.alpha_SR[:, 0].argmax() == index % 3
        assert torch.equal(core.alpha_SR[:, 1:], torch.eye(3))
        assert (core.to_weights.weight == 0).all()
        torch.testing.assert_close(core.scales_2, torch.tensor([0.01, 0.01]))


def test_all_weights_learn() -> None:
    torch.manual_seed(0)
    core = Stack(hyper_connected(layers(), 2))
    run(core, torch.randn(2, 5, 8)).square().sum().backward()
    for name, weight in core.named_parameters():
        began_at_nothing = ".norm." in name or "scales_2" in name  # multiplied by zero until `to_weights` has moved
        assert (weight.grad is not None and (weight.grad != 0).any()) != began_at_nothing, name


def test_weights_survive_save_and_load(tmp_path: Path) -> None:
    core, other = (decoder(CONFIG, hyper_connected(layers(), 2)) for _ in range(2))
    save_file(trained(core).state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    x_BLD = torch.randn(2, 5, 8)
    assert torch.equal(run(other, x_BLD), run(core, x_BLD))


def test_autocast_leaves_the_streams_exact() -> None:
    """Tokens come out as they went in if layers add nothing."""
    still = Pointwise(nn.Identity(), 8)
    core = Stack([HyperConnection(still, 2, index) for index in range(3)])
    x = torch.randn(2, 5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(core, x), x)


DROPPING = CONFIG.model_copy(update={"layers": 2, "dropout": 0.1})
COMPOSITIONS: dict[str, Any] = {
    "memory tokens": lambda: MemoryTokens(decoder(DROPPING, hyper_connected(layers(DROPPING), 2)), 2),
    "caches": lambda: Stack(hyper_connected([TransformerXLLayer(DROPPING, cached=4) for _ in range(2)], 4)),
    "token shift": lambda: Stack(hyper_connected([TokenShift(layer) for layer in layers(DROPPING)], 2)),
}


@every_check
@pytest.mark.parametrize("build", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_compositions_keep_the_contract(build: Any, check: Any) -> None:
    torch.manual_seed(0)
    fulfils(check, trained(build()))
