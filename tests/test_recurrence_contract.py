"""The contract of every SegmentRecurrent, found by discovery, in float64 where equality is claimed.

Dimensions: B = 3 lanes, segments of L = 6 tokens, width D = 8.
"""

import copy
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import rmt_rl.nn
from rmt_rl import registry
from rmt_rl.backprop import full, replay, truncated
from rmt_rl.memory.gated_rnn import GRULayer, LSTMLayer
from rmt_rl.memory.gated_transformer_xl import GatedTransformerXLLayer
from rmt_rl.memory.mamba import MambaLayer
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.memory.sliding_context import SlidingContext
from rmt_rl.memory.titans import MemoryAsGate, MemoryAsLayer
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.nn.token_shift import TokenShift
from rmt_rl.recurrence import SegmentRecurrent, clone, put_lanes_, select_lanes, tree_fill, tree_leaves, tree_map

LANES, LENGTH, WIDTH, SEGMENTS = 3, 6, 8, 4
SHORT_OF_SIGHT = {  # how many segments, their own included, examples get gradient from whose state knows no more
    "TokenShift-0": 2,
    "TokenShift-1": 2,
    "SlidingContext-0": 2,
    **{f"TransformerXLLayer-{index}": 1 for index in (0, 1, 4, 6)},  # stop_gradient
    "TransformerXLLayer-2": 2,
    "TransformerXLLayer-3": 3,
    **{f"GatedTransformerXLLayer-{index}": 1 for index in (0, 1, 2, 3, 4, 6)},  # stop_gradient
}
PROMISING = [  # that how a sequence is cut changes nothing, for their last example while its caches aren't full
    GatedTransformerXLLayer,
    GRULayer,
    LSTMLayer,
    MambaLayer,
    MemoryAsGate,
    MemoryAsLayer,
    NeuralMemory,
    SlidingContext,
    TransformerXLLayer,
]
Core = SegmentRecurrent[Any, Any]


def subclasses(cls: Any) -> Iterator[type[Core]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def mechanisms() -> list[type[Core]]:
    """All subclasses of the packages that have memory mechanisms: this one, and those that declare entry points."""
    packages = {"rmt_rl"}
    for name, (entry, *_) in registry.entries("memory").items():
        registry.load("memory", name)
        packages.add(entry.module.partition(".")[0])
    for module in pkgutil.iter_modules(rmt_rl.nn.__path__):
        importlib.import_module(f"rmt_rl.nn.{module.name}")
    found = dict.fromkeys(subclasses(SegmentRecurrent))
    return [cls for cls in found if cls.__module__.partition(".")[0] in packages]


def discovered() -> list[Any]:
    classes = mechanisms()
    torch.manual_seed(0)
    return [
        pytest.param(core, id=f"{cls.__name__}-{index}")
        for cls in classes
        for index, core in enumerate(cls.examples(WIDTH))
    ]


DISCOVERED = discovered()
CAUSAL = [each for each in DISCOVERED if each.values[0].causal]
ENCODERS = [each for each in DISCOVERED if not each.values[0].causal]


def fresh(request: pytest.FixtureRequest) -> Core:
    core: Core = copy.deepcopy(request.param).double().eval()
    return core


core = pytest.fixture(params=DISCOVERED, name="core")(fresh)
causal_core = pytest.fixture(params=CAUSAL, name="causal_core")(fresh)
encoder = pytest.fixture(params=ENCODERS, name="encoder")(fresh)


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(LANES, SEGMENTS * LENGTH, WIDTH, dtype=torch.float64)


def run(core: Core, tokens: Tensor, state: Any = None, length: int = LENGTH) -> tuple[Tensor, Any]:
    state = core.initial_state(len(tokens)) if state is None else state
    outputs = []
    for segment in tokens.split(length, 1):
        y, state = core(segment, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def assert_trees_close(a: Any, b: Any, **tolerance: Any) -> None:
    for left, right in zip(tree_leaves(a), tree_leaves(b), strict=True):
        torch.testing.assert_close(left, right, **tolerance)


def test_every_mechanism_has_examples() -> None:
    without = [cls for cls in mechanisms() if not cls.__abstractmethods__ and not list(cls.examples(WIDTH))]
    assert not without


@torch.no_grad()
def test_stepwise_equals_segmentwise(causal_core: Core, tokens: Tensor) -> None:
    expected_state = state = causal_core.initial_state(LANES)
    for segment in tokens.split(LENGTH, 1):
        expected, expected_state = causal_core(segment, expected_state)
        cache, outputs = causal_core.begin(state, LANES, LENGTH), []
        for part in segment.split([1, 3, 2], 1):
            y, cache = causal_core.step(part, cache)
            outputs.append(y)
        state = causal_core.end(cache)
        torch.testing.assert_close(torch.cat(outputs, 1), expected)
        assert_trees_close(state, expected_state)


@torch.no_grad()
def test_lanes_at_mixed_places(causal_core: Core, tokens: Tensor) -> None:
    """Lane b feeds b tokens fewer in its first call, so that lanes stand apart and end their segments apart."""
    expected, _ = run(causal_core, tokens)
    first = torch.tensor([3, 2, 1])
    cache = causal_core.begin(causal_core.initial_state(LANES), LANES, LENGTH)
    y, cache = causal_core.step(tokens[:, :3], cache, first)
    for lane, count in enumerate(first.tolist()):
        torch.testing.assert_close(y[lane, :count], expected[lane, :count])
    places = first.clone()
    for _ in range(8):
        ended = places % LENGTH == 0
        if ended.any():
            lanes = ended.nonzero()[:, 0]
            state = causal_core.end(select_lanes(cache, lanes))
            put_lanes_(cache, lanes, causal_core.begin(state, len(lanes), LENGTH))
        y, cache = causal_core.step(tokens[torch.arange(LANES), places][:, None], cache)
        torch.testing.assert_close(y[:, 0], expected[torch.arange(LANES), places])
        places += 1


@torch.no_grad()
def test_padding_changes_nothing(core: Core, tokens: Tensor) -> None:
    lengths = torch.tensor([6, 2, 0])
    _, state = run(core, tokens[:, :LENGTH])
    poisoned = tokens[:, LENGTH : 2 * LENGTH].clone()
    for lane, length in enumerate(lengths.tolist()):
        poisoned[lane, length:] = 1e6
    y, after = core(poisoned, state, lengths)
    y_next, _ = core(tokens[:, 2 * LENGTH : 3 * LENGTH], after)
    for lane, length in enumerate(lengths.tolist()):
        alone = tree_map(lambda leaf, lane=lane: leaf[lane : lane + 1], state)
        y_alone, alone = core(tokens[lane : lane + 1, LENGTH : LENGTH + length], alone)
        torch.testing.assert_close(y[lane : lane + 1, :length], y_alone)
        assert_trees_close(select_lanes(after, torch.tensor([lane])), alone)
        y_next_alone, _ = core(tokens[lane : lane + 1, 2 * LENGTH : 3 * LENGTH], alone)
        torch.testing.assert_close(y_next[lane : lane + 1], y_next_alone)


@torch.no_grad()
def test_lanes_are_independent(core: Core, tokens: Tensor) -> None:
    expected, final = run(core, tokens)
    order = torch.tensor([2, 0])
    y, state = run(core, tokens[order])
    torch.testing.assert_close(y, expected[order])
    assert_trees_close(state, select_lanes(final, order))


def test_no_output_depends_on_a_later_token(causal_core: Core, tokens: Tensor) -> None:
    x = tokens.clone().requires_grad_()
    y, _ = run(causal_core, x)
    for place in (0, 3, LENGTH - 1, LENGTH, 2 * LENGTH + 1):
        (gradient,) = torch.autograd.grad(y[:, place].square().sum(), x, retain_graph=True)
        assert gradient[:, place + 1 :].abs().max() == 0
        assert gradient[:, place].abs().max() > 0


def test_an_encoder_sees_its_segment_and_nothing_later(encoder: Core, tokens: Tensor) -> None:
    x = tokens.clone().requires_grad_()
    y, _ = run(encoder, x)
    (gradient,) = torch.autograd.grad(y[:, LENGTH].square().sum(), x)
    assert gradient[:, 2 * LENGTH :].abs().max() == 0
    assert (gradient[:, LENGTH : 2 * LENGTH].abs().amax((0, 2)) > 0).all()


@torch.no_grad()
def test_any_core_closes_a_segment_fed_in_parts(core: Core, tokens: Tensor) -> None:
    _, expected = run(core, tokens[:, :LENGTH])
    cache = core.begin(core.initial_state(LANES), LANES, LENGTH)
    for part in tokens[:, :LENGTH].split([2, 4], 1):
        _, cache = core.step(part, cache)
    assert_trees_close(core.end(cache), expected)


@torch.no_grad()
def test_a_segment_may_end_before_it_is_full(core: Core, tokens: Tensor) -> None:
    """Lanes that got 5, 2 and no tokens, some of them beside padding, of a segment with room for 20."""
    _, state = run(core, tokens[:, :LENGTH])
    x, lengths = tokens[:, LENGTH:], torch.tensor([5, 2, 0])
    y, expected = core(x[:, :5], state, lengths)
    cache = core.begin(state, LANES, 20)
    y_first, cache = core.step(x[:, :3], cache, torch.tensor([3, 2, 0]))
    y_second, cache = core.step(x[:, 3:5], cache, torch.tensor([2, 0, 0]))
    assert_trees_close(core.end(cache), expected)
    if core.causal:
        torch.testing.assert_close(torch.cat((y_first, y_second), 1)[0], y[0])
        torch.testing.assert_close(y_first[1, :2], y[1, :2])


def loss_step(core: Core, segments: list[Tensor]) -> Any:
    def step(index: int, state: Any) -> tuple[Tensor, Any]:
        y, state = core(segments[index], state)
        return y.square().mean() + (y[:, -1] * torch.linspace(-1, 1, WIDTH, dtype=y.dtype)).sum(), state

    return step


def gradients(core: Core, how: Any, tokens: Tensor, **options: Any) -> tuple[list[Tensor], Any]:
    core.zero_grad()
    torch.manual_seed(7)
    segments = list(tokens.split(LENGTH, 1))
    loss, state = how(loss_step(core, segments), len(segments), core.initial_state(LANES), Tensor.backward, **options)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in core.parameters()]
    return [loss, *grads, torch.rand(1)], state


def test_replayed_gradient_is_the_full_gradient(core: Core, tokens: Tensor) -> None:
    """With dropout on; the same losses, gradients (learned initial memory included), states and random stream."""
    core.train()
    expected, final = gradients(core, full, tokens)
    replayed, state = gradients(core, replay, tokens)
    for a, b in zip(replayed, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert_trees_close(state, final, rtol=1e-10, atol=1e-10)


def test_a_cast_changes_nothing_but_rounding(core: Core, tokens: Tensor) -> None:
    with torch.no_grad():
        expected, _ = run(core, tokens)
        y, _ = run(core.float().to(torch.float64), tokens)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_state_survives_save_and_load(core: Core, tokens: Tensor, tmp_path: Path) -> None:
    _, state = run(core, tokens[:, : 2 * LENGTH])
    state = clone(state)  # contiguous as the loaded one: with other strides, some processors round otherwise
    leaves = {str(index): leaf for index, leaf in enumerate(tree_leaves(state))}
    save_file(leaves, tmp_path / "state.safetensors")
    loaded = load_file(tmp_path / "state.safetensors")
    restored = clone(tree_fill(state, [loaded[str(index)] for index in range(len(leaves))]))
    expected, _ = run(core, tokens[:, 2 * LENGTH :], state)
    y, _ = run(core, tokens[:, 2 * LENGTH :], restored)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("promising", PROMISING)
@torch.no_grad()
def test_segments_chained_equal_the_unrolled_whole(promising: Any, tokens: Tensor) -> None:
    """A core whose cache isn't full sees all that came before, so it gives the same however the sequence is cut."""
    core = list(promising.examples(WIDTH))[-1].double().eval()
    whole, _ = core(tokens[:, : 3 * LENGTH], core.initial_state(LANES))
    chained, _ = run(core, tokens[:, : 3 * LENGTH])
    torch.testing.assert_close(chained, whole)


def reach(core: Core, tokens: Tensor, depth: int) -> int:
    """Return the number of segments, the last included, that the last segment's loss sends a gradient to."""
    segments = [part.clone().requires_grad_() for part in tokens.split(LENGTH, 1)]

    def last_only(index: int, state: Any) -> tuple[Tensor, Any]:
        y, state = core(segments[index], state)
        return y.square().sum() * (index == len(segments) - 1), state

    truncated(last_only, len(segments), core.initial_state(LANES), Tensor.backward, depth=depth)
    reached = [part.grad is not None and bool(part.grad.abs().max() > 0) for part in segments]
    assert reached == sorted(reached)
    return sum(reached)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradient_crosses_exactly_the_segments_asked_for(core: Core, tokens: Tensor, depth: int) -> None:
    assert reach(core, tokens, depth) == min(depth, reach(core, tokens, depth=4))


def test_gradient_goes_as_far_back_as_the_state_knows(
    core: Core, tokens: Tensor, request: pytest.FixtureRequest
) -> None:
    stateless = not list(tree_leaves(core.initial_state(LANES)))
    expected = 1 if stateless else SHORT_OF_SIGHT.get(request.node.callspec.id, SEGMENTS)
    assert reach(core, tokens, depth=SEGMENTS) == expected


@torch.no_grad()
def test_a_lasting_state_alone_depends_on_a_segment_long_ago(core: Core) -> None:
    torch.manual_seed(1)
    long_ago, since = torch.randn(2, LENGTH, WIDTH).double(), torch.randn(1, 4 * LENGTH, WIDTH).double()
    _, state = run(core, torch.cat((long_ago, since.expand(2, -1, -1)), 1))
    differences = [(leaf[0] - leaf[1]).abs().max() for leaf in tree_leaves(state) if leaf.numel()]
    assert any(difference > 0 for difference in differences) == core.lasting


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_runs_under_bf16_autocast(core: Core, tokens: Tensor, dtype: torch.dtype) -> None:
    core, x = core.float(), tokens.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = run(core, x)
        cache = core.begin(state, LANES, LENGTH)
        y_step, cache = core.step(x[:, :2], cache)
        core.end(cache)
    if not isinstance(core, TransformerXLLayer | SlidingContext | TokenShift):  # which keep tokens as they came
        kept, begun = (tree_leaves(tree) for tree in (state, core.initial_state(LANES)))
        assert [leaf.dtype for leaf in kept] == [leaf.dtype for leaf in begun]
    assert y.isfinite().all()
    assert y_step.isfinite().all()
    exact, _ = run(core, tokens.float())
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.1)
