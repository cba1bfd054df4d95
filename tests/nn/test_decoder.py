"""The decoder's options: the gated feed-forward net, and attention without rotary positions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmt_rl.agent import Agent
from rmt_rl.memory.gated_transformer_xl import GatedTransformerXLLayer
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.memory.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.nn.decoder import GEGLU, DecoderConfig, DecoderLayer, feed_forward
from tests.agents.examples import VECTOR, agents, forward, make, segments, trajectory
from tests.nn.compositions import Core, every_check, fulfils, run

UNTURNED = DecoderConfig(width=8, heads=2, feed_forward="geglu", rotary=False)
TURNED = UNTURNED.model_copy(update={"rotary": True})

Build = Callable[[DecoderConfig], Core]
LAYERS: dict[str, Build] = {
    "decoder": DecoderLayer,
    "xl": lambda config: TransformerXLLayer(config, cached=20),
    "xl-keys-values": lambda config: TransformerXLLayer(config, cached=4, cache="keys_values"),
    "gated-xl": lambda config: GatedTransformerXLLayer(config, cached=4),
    "mac": lambda config: MemoryAsContext(config, NeuralMemory(8, chunk=4), persistent=2),
    "mag": lambda config: MemoryAsGate(config, NeuralMemory(8, chunk=4), persistent=2, window=5),
    "mal": lambda config: MemoryAsLayer(config, NeuralMemory(8, chunk=4), persistent=2, window=20),
}


# The gated feed-forward net


def test_geglu_by_hand() -> None:
    """GELU(1) = 0.841345 and GELU(2) = 1.954500 scale 3 and -1."""
    torch.testing.assert_close(GEGLU()(torch.tensor([1.0, 2.0, 3.0, -1.0])), torch.tensor([2.524034, -1.954500]))


def test_the_gated_net_by_its_formula() -> None:
    """Equation 6 of arXiv 2002.05202, with biases."""
    torch.manual_seed(0)
    first, gated, last = feed_forward(DecoderConfig(width=8, heads=2, hidden=6, feed_forward="geglu"))
    assert isinstance(first, nn.Linear)
    x = torch.randn(3, 8)
    w_F8, v_F8 = first.weight[:6], first.weight[6:]
    expected = nn.functional.gelu(x @ w_F8.T + first.bias[:6]) * (x @ v_F8.T + first.bias[6:])
    torch.testing.assert_close(nn.Sequential(first, gated, last)(x), last(expected))


@pytest.mark.parametrize("width", [64, 128, 768])
def test_both_nets_have_about_as_many_parameters(width: int) -> None:
    def count(**options: Any) -> int:
        modules = feed_forward(DecoderConfig(width=width, heads=2, **options))
        return sum(weight.numel() for module in modules for weight in module.parameters())

    assert count(feed_forward="geglu") == pytest.approx(count(), rel=0.02)
    assert feed_forward(DecoderConfig(width=768, heads=2, feed_forward="geglu"))[-1].weight.shape == (768, 2048)


def test_the_default_layer_is_as_it_always_was() -> None:
    """Names, and random numbers in the same order: seeds and checkpoints of before go on."""
    torch.manual_seed(0)
    layer = DecoderLayer(DecoderConfig(width=8, heads=2))
    torch.manual_seed(0)
    projections = [nn.Linear(8, width, bias=False).weight for width in (16, 8, 8)]
    first, last = nn.Linear(8, 32), nn.Linear(32, 8)
    drawn = dict(zip(["to_queries_keys.weight", "to_values.weight", "from_heads.weight"], projections, strict=True))
    drawn |= {"feed_forward.1.weight": first.weight, "feed_forward.1.bias": first.bias}
    drawn |= {"feed_forward.3.weight": last.weight, "feed_forward.3.bias": last.bias}
    norms = {f"{norm}.{part}" for norm in ("attention_norm", "feed_forward.0") for part in ("weight", "bias")}
    weights = layer.state_dict()
    assert set(weights) == norms | set(drawn)
    for name, weight in drawn.items():
        assert torch.equal(weights[name], weight)


def decoding_agents() -> list[Any]:
    params = agents()
    return [param for param in params if all(cls and "rotary" in cls.Config.model_fields for cls in param.values)]


@pytest.mark.parametrize("cls", decoding_agents())
def test_both_options_reach_all_of_every_agent(cls: type[Agent]) -> None:
    """No plain feed-forward net is left, and other places give other outputs from the same weights."""

    def built(**options: Any) -> Agent:
        return make(cls, cls.Config.model_validate({"segment_length": 4, "width": 24} | options))

    def count(agent: Agent, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in agent.modules())

    plain, gated, unturned = built(), built(feed_forward="geglu"), built(rotary=False)
    assert count(plain, nn.GELU) == count(gated, GEGLU) > 0
    assert count(gated, nn.GELU) == 0
    parts = segments([trajectory(VECTOR, plain.spec.action_space, 6)], 4)
    with torch.no_grad():
        assert not torch.allclose(forward(plain, parts)[0], forward(unturned, parts)[0])


def test_a_gated_net_is_another_function() -> None:
    x_BLD = torch.randn(2, 5, 8)
    plain = DecoderLayer(DecoderConfig(width=8, heads=2))
    gated = DecoderLayer(DecoderConfig(width=8, heads=2, feed_forward="geglu"))
    shared = {name: weight for name, weight in plain.state_dict().items() if "feed_forward" not in name}
    gated.load_state_dict(shared, strict=False)
    assert not torch.allclose(run(plain, x_BLD), run(gated, x_BLD))


# Without rotary positions


@every_check
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layers_without_positions_keep_the_contract(build: Build, check: Any) -> None:
    fulfils(check, build(UNTURNED))


def last_outputs(core: Core, x_BLD: Tensor) -> Tensor:
    """The last token's output, after a segment of 3 and one of 2."""
    with torch.no_grad():
        _, state = core(x_BLD[:, :3], core.initial_state(len(x_BLD)))
        return run(core, x_BLD[:, 3:], state)[:, -1]


@pytest.mark.parametrize(("name", "order"), [("decoder", [0, 1, 2, 4, 3, 5]), ("xl", [4, 3, 1, 0, 2, 5])])
def test_unturned_a_token_does_not_tell_the_order_of_those_before(name: str, order: list[int]) -> None:
    """In its segment, and in the cache before it; turned, it does."""
    torch.manual_seed(0)
    x_BLD = torch.randn(2, 6, 8, dtype=torch.float64)
    for config, same in ((UNTURNED, True), (TURNED, False)):
        core = LAYERS[name](config).double()
        assert torch.allclose(last_outputs(core, x_BLD), last_outputs(core, x_BLD[:, order])) == same


def test_unturned_context_of_titans_does_not_tell_the_order() -> None:
    torch.manual_seed(0)
    x_BLD = torch.randn(2, 6, 8, dtype=torch.float64)
    for config, same in ((UNTURNED, True), (TURNED, False)):
        core = LAYERS["mac"](config).double()
        shuffled = run(core, x_BLD[:, [3, 1, 4, 0, 2, 5]])[:, -1]
        assert torch.allclose(run(core, x_BLD)[:, -1], shuffled) == same


def test_unturned_persistent_tokens_have_all_channels() -> None:
    """Attention of a first token by hand: two persistent tokens and itself, all of a head's channels in each score."""
    torch.manual_seed(0)
    core = MemoryAsGate(UNTURNED, NeuralMemory(8, chunk=4), persistent=2, window=5).double()
    x_D = torch.randn(8, dtype=torch.float64)
    with torch.no_grad():
        cache = core.opened(core.initial_state(1).window, 1)
        attended, _ = core._look(x_D[None, None], cache, None)
        seen = core.attention_norm(torch.cat((core.persistent_PD, x_D[None])))
        queries, keys = (part.unflatten(-1, (2, 4)) for part in core.to_queries_keys(seen).chunk(2, -1))
        values = core.to_values(seen).unflatten(-1, (2, 4))
    for head in range(2):
        scores = keys[:, head] @ queries[-1, head] / 2
        torch.testing.assert_close(attended[0, 0, head], scores.softmax(0) @ values[:, head])


def test_heads_too_narrow_to_turn_one_half_serve_unturned() -> None:
    config = DecoderConfig(width=4, heads=2, rotary=False)
    core = MemoryAsContext(config, NeuralMemory(4, chunk=4), persistent=1)
    assert run(core, torch.randn(1, 3, 4)).isfinite().all()


def test_a_copy_without_positions_has_the_same_weights() -> None:
    layer = DecoderLayer(TURNED)
    other = DecoderLayer(UNTURNED)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    x_BLD = torch.randn(2, 5, 8)
    torch.testing.assert_close(run(layer, x_BLD)[:, 0], run(other, x_BLD)[:, 0])  # a first token stands at place 0
    assert not torch.allclose(run(layer, x_BLD)[:, 1:], run(other, x_BLD)[:, 1:])
