"""The cost of backpropagation through segments in live tensors, and the gradient that passes through memory ageing."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves as flatten

from rmt_rl.backprop import full, replay, straight_through, truncated
from rmt_rl.memory.tokens import MemoryState, MemoryTokens
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder

LANES, LENGTH, TOKENS, WIDTH = 2, 32, 3, 16


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors made inside that are alive, those that a graph holds too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(leaf.untyped_storage()) for leaf in flatten((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in flatten(out):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in known:
                self._made(leaf.untyped_storage())
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self.live -= size


def peak(how: Any, segments: int) -> int:
    """Bytes at the most, over what the weights and their gradients take."""
    torch.manual_seed(0)
    config = DecoderConfig(width=WIDTH, heads=2, dropout=0.1)
    core = MemoryTokens(decoder(config, [DecoderLayer(config) for _ in range(2)]), TOKENS, "gate")
    x_BLD = torch.randn(LANES, LENGTH, WIDTH)

    def step(index: int, state: MemoryState) -> tuple[Tensor, MemoryState]:
        y_BLD, state = core(x_BLD, state)
        return y_BLD.square().mean(), state

    memory = PeakMemory()
    with memory:
        how(step, segments, core.initial_state(LANES), Tensor.backward)
    return memory.peak


def test_the_measure_sees_what_a_graph_holds() -> None:
    with PeakMemory() as memory:
        x = torch.ones(1000, requires_grad=True)
        y = x.exp().exp()  # holds both results
        z = y.view(10, 100)
        assert memory.live == 3 * 4000
        del y, z
        assert memory.live == 4000
    assert memory.peak == 3 * 4000


def test_replay_is_flat_where_full_backpropagation_grows() -> None:
    """From 4 to 64 segments; all that replay keeps of each is the memory before it (and 5 KB of generator state)."""
    assert peak(full, 64) > 10 * peak(full, 4) > 30 * peak(full, 1)
    memory = LANES * TOKENS * WIDTH * 4
    assert peak(replay, 64) <= peak(replay, 4) + 60 * memory
    assert peak(replay, 64) < 1.5 * peak(full, 1)


@pytest.mark.parametrize("depth", [1, 2])
def test_truncated_backpropagation_is_flat(depth: int) -> None:
    assert peak(partial(truncated, depth=depth), 64) < 1.05 * peak(partial(truncated, depth=depth), 4)


def test_straight_through_has_one_tree_s_value_and_the_other_s_gradient() -> None:
    torch.manual_seed(0)
    written, aged = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    counts = torch.tensor([1, 2]), torch.tensor([5, 6])
    memory, (count, _) = straight_through((written, (counts[0], ())), (aged, (counts[1], ())))
    torch.testing.assert_close(memory, aged)
    assert torch.equal(count, counts[1])
    weights = torch.randn(2, 3)
    (memory * weights).sum().backward()
    assert written.grad is not None
    torch.testing.assert_close(written.grad, weights)
    assert aged.grad is None
