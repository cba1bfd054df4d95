"""Value residual against plain decoder layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.nn.hyper_connections import hyper_connected
from rmt_rl.nn.token_shift import TokenShift
from rmt_rl.nn.value_residual import ValueResidualLayer, value_residual
from rmt_rl.recurrence import Stack, tree_leaves
from tests.nn.compositions import Core, every_check, fulfils, run

CONFIG = DecoderConfig(layers=3, width=8, heads=2, head_width=6)


def pair(config: DecoderConfig = CONFIG) -> tuple[Stack, Stack]:
    """Plain layers and layers with value residual, of the same weights."""
    torch.manual_seed(0)
    plain = decoder(config, [DecoderLayer(config) for _ in range(config.layers)]).double()
    core = decoder(config, value_residual(config)).double()
    layers, norm = plain.layers[:-1].state_dict(), plain.layers[-1].state_dict()
    missing, unexpected = core.layers[0].load_state_dict(
        {f"layers.{key}": value for key, value in layers.items()}, strict=False
    )
    core.layers[-1].load_state_dict(norm)
    assert missing == [f"layers.{index}.own_share" for index in range(1, config.layers)]  # each weight is there once
    assert not unexpected
    return plain, core


def share(core: Core, logit: float) -> None:
    """Give every layer this lambda."""
    for module in core.modules():
        if isinstance(module, ValueResidualLayer):
            module.own_share.data.fill_(logit)


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 5, 8, dtype=torch.float64)


def test_of_own_values_only_it_is_the_plain_decoder() -> None:
    plain, core = pair()
    share(core, torch.inf)
    torch.testing.assert_close(run(core, tokens()), run(plain, tokens()))


@pytest.mark.parametrize(("logit", "own"), [(0.0, 0.5), (-torch.inf, 0.0), (1.0, 0.731058579)])
def test_values_are_mixed(logit: float, own: float) -> None:
    """Layer by layer with the parts of the plain layers; lambda is 1/2 at first."""
    plain, core = pair()
    if logit:
        share(core, logit)
    x_BLD, first = tokens(), None
    for layer in plain.layers[:-1]:
        assert isinstance(layer, DecoderLayer)
        queries, keys, values = layer.project(x_BLD, layer.rotations(5)[:5])
        first = values if first is None else first
        mixed = own * values + (1 - own) * first
        x_BLD = layer.finish(x_BLD, layer.attend(queries, keys, mixed, None))
    torch.testing.assert_close(run(core, tokens()), plain.layers[-1](x_BLD, ())[0])


def test_it_changes_the_outputs() -> None:
    plain, core = pair()
    assert not torch.allclose(run(core, tokens()), run(plain, tokens()))


def test_of_one_layer_nothing_changes() -> None:
    plain, core = pair(CONFIG.model_copy(update={"layers": 1}))
    torch.testing.assert_close(run(core, tokens()), run(plain, tokens()))


def test_lambda_learns_and_the_first_values_get_its_gradient() -> None:
    _, core = pair()
    run(core, tokens()).square().sum().backward()
    assert all((weight.grad is not None and (weight.grad != 0).any()) for weight in core.parameters())


def test_caches_are_as_large_as_plain_ones() -> None:
    plain, core = pair()
    caches = [each.begin(each.initial_state(2), 2, 5) for each in (plain, core)]
    assert [leaf.shape for leaf in tree_leaves(caches[0])] == [leaf.shape for leaf in tree_leaves(caches[1])]


def test_weights_survive_save_and_load(tmp_path: Path) -> None:
    _, core = pair()
    share(core, 0.7)
    save_file(core.state_dict(), tmp_path / "weights.safetensors")
    other = decoder(CONFIG, value_residual(CONFIG)).double()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(run(other, tokens()), run(core, tokens()))


DROPPING = CONFIG.model_copy(update={"dropout": 0.1, "feed_forward": "geglu"})
COMPOSITIONS: dict[str, Any] = {
    "alone": lambda: decoder(DROPPING, value_residual(DROPPING)),
    "memory tokens": lambda: MemoryTokens(decoder(DROPPING, value_residual(DROPPING)), 2),
    "all as one": lambda: Stack(hyper_connected([TokenShift(core) for core in value_residual(DROPPING)], 2)),
}


@every_check
@pytest.mark.parametrize("build", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_compositions_keep_the_contract(build: Any, check: Any) -> None:
    fulfils(check, build())
