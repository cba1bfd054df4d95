"""Memory tokens: where a segment's write tokens begin, and which places they take.

Dimensions: B lanes, L tokens of a segment, M memory tokens, D width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmt_rl.memory.tokens import MemoryTokens, Writes
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.memory.valve import GateValve
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.recurrence import Pointwise

B, L, M, D = 2, 5, 3, 8
CONFIG = DecoderConfig(width=D, heads=2)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def core_around(inner: Any, writes: Writes = "memory") -> MemoryTokens:
    return MemoryTokens(inner, M, writes=writes).double()


def segments(count: int) -> Tensor:
    return torch.randn(count, B, L, D, dtype=torch.float64)


def starts(core: MemoryTokens, memory_BMD: Tensor) -> Tensor:
    return memory_BMD if core.writes_MD is None else core.writes_MD.expand_as(memory_BMD)


@pytest.mark.parametrize("writes", ["memory", "learned"])
@torch.no_grad()
def test_a_segment_is_read_tokens_its_own_and_write_tokens_in_one_row(writes: Writes) -> None:
    """RMT's equations 4 and 5: over [M, X, M] (or [M, X, W]); what is written last is the memory of the next."""
    core = core_around(DecoderLayer(CONFIG), writes)
    state = core.initial_state(B)
    for x in segments(3):
        row = torch.cat((state.memory_BMD, x, starts(core, state.memory_BMD)), 1)
        expected, _ = core.inner(row, ())
        y, state = core(x, state)
        torch.testing.assert_close(y, expected[:, M:-M])
        torch.testing.assert_close(state.memory_BMD, expected[:, -M:])


@torch.no_grad()
def test_what_was_written_is_where_the_next_writing_begins() -> None:
    """Through a core that does nothing, the memory so stays what it is; learned write tokens take its place at once."""
    nothing = Pointwise(nn.Identity(), D)
    kept, replaced = core_around(nothing), core_around(nothing, "learned")
    memory = torch.randn(B, M, D, dtype=torch.float64)
    states = [core.initial_state(B)._replace(memory_BMD=memory) for core in (kept, replaced)]
    for x in segments(2):
        states = [core(x, state)[1] for core, state in zip((kept, replaced), states, strict=True)]
        assert torch.equal(states[0].memory_BMD, memory)
        assert torch.equal(states[1].memory_BMD, starts(replaced, memory))


def test_learned_write_tokens_know_the_old_memory_by_attention_only() -> None:
    """The next memory has no gradient by the old one if nothing attends to the read tokens."""

    def gradient(writes: Writes, attends: bool) -> Tensor:
        core = core_around(DecoderLayer(CONFIG), writes)
        if not attends:
            core.get_parameter("inner.from_heads.weight").data.zero_()
        memory = torch.randn(B, M, D, dtype=torch.float64, requires_grad=True)
        _, state = core(segments(1)[0], core.initial_state(B)._replace(memory_BMD=memory))
        (found,) = torch.autograd.grad(state.memory_BMD.square().sum(), memory, allow_unused=True)
        return torch.zeros_like(memory) if found is None else found

    assert gradient("memory", attends=False).abs().min() > 0
    assert gradient("learned", attends=False).abs().max() == 0
    assert gradient("learned", attends=True).abs().max() > 0


def test_the_option_draws_no_other_weights() -> None:
    """Both have the same weights but for the write tokens, which are trained."""
    torch.manual_seed(0)
    default = core_around(DecoderLayer(CONFIG)).state_dict()
    torch.manual_seed(0)
    core = core_around(DecoderLayer(CONFIG), "learned")
    learned = core.state_dict()
    writes = learned.pop("writes_MD")
    assert list(learned) == list(default)
    assert all(torch.equal(learned[name], default[name]) for name in default)
    assert torch.pdist(writes).min() > 0.1
    _, state = core(segments(1)[0], core.initial_state(B))
    core(segments(1)[0], state)[0].square().sum().backward()
    assert core.writes_MD is not None
    assert core.writes_MD.grad is not None
    assert core.writes_MD.grad.abs().min() > 0


@pytest.mark.parametrize("cache", ["hidden", "keys_values"])
@torch.no_grad()
def test_read_and_write_tokens_are_cached_at_their_places(cache: Any) -> None:
    """A Transformer-XL layer inside sees all rows [read, real tokens, write] as one, whatever the lanes' lengths."""
    core = core_around(TransformerXLLayer(CONFIG, 3 * (L + 2 * M), cache=cache))
    state, parts, lengths = core.initial_state(B), segments(3), torch.tensor([[5, 2], [0, 5], [3, 1]])
    rows: list[list[Tensor]] = [[], []]
    for x, lengths_B in zip(parts, lengths, strict=True):
        memory = state.memory_BMD
        y, state = core(x, state, lengths_B)
        for lane, length in enumerate(lengths_B.tolist()):
            rows[lane] += [memory[lane], x[lane, :length], memory[lane]]
            whole, _ = core.inner(torch.cat(rows[lane])[None], core.inner.initial_state(1))
            torch.testing.assert_close(state.memory_BMD[lane], whole[0, -M:])
            torch.testing.assert_close(y[lane, :length], whole[0, len(whole[0]) - M - length : -M])


@torch.no_grad()
def test_a_memory_that_changes_slowly_does_so_under_bf16_autocast_too() -> None:
    """Rounded to bf16 in each segment, it would stand still: a thousandth of a number is below its last digit."""
    core = MemoryTokens(decoder(CONFIG, [DecoderLayer(CONFIG)]), M, "gate")
    assert isinstance(core.valve, GateValve)
    core.valve.gate.bias.fill_(-7)
    x, exact = torch.randn(B, L, D), core.initial_state(B)
    first, rounded = exact.memory_BMD, exact
    for _ in range(300):
        _, exact = core(x, exact)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, rounded = core(x.bfloat16(), rounded)
    assert (exact.memory_BMD - first).abs().mean() > 0.1
    torch.testing.assert_close(rounded.memory_BMD - first, exact.memory_BMD - first, rtol=0.1, atol=0.02)
