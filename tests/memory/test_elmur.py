"""ELMUR's reading by hand, its writing of the least recently used slot by hand, and that its times stay bounded.

Dimensions: B lanes, L tokens of a segment, S slots, D width.
"""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from rmt_rl.agents.elmur import ELMURConfig
from rmt_rl.memory.elmur import NEVER, ELMURLayer, Slots, TimedAttention
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer

D, HEADS, BLEND = 8, 2, 0.75


def layer(slots: int = 2, distances: int = 16) -> ELMURLayer:
    torch.manual_seed(0)
    made = ELMURLayer(DecoderConfig(width=D, heads=HEADS), slots, BLEND, distances).double()
    for attention in (made.read, made.write):
        torch.nn.init.normal_(attention.bias.weight)
    return made.eval()


def tokens(lanes: int, length: int, seed: int = 1) -> Tensor:
    return torch.randn(lanes, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(attention: TimedAttention, asking_TD: Tensor, answering_KD: Tensor, distances_TK: Tensor) -> Tensor:
    """Softmax attention with the bias on its logits (arXiv 2510.07151, section 3.2), one head and query at a time."""
    q, (k, v) = (
        asking_TD @ attention.to_queries.weight.T,
        (answering_KD @ attention.to_keys_values.weight.T).chunk(2, 1),
    )
    heads = torch.zeros_like(q)
    for head, channels in enumerate(torch.arange(D).chunk(HEADS)):
        for t in range(len(asking_TD)):
            table = attention.bias.weight[:, head]
            bias = torch.stack([table[min(int(far), len(table) - 1)] for far in distances_TK[t]])
            logits = k[:, channels] @ q[t, channels] / math.sqrt(D // HEADS) + bias
            heads[t, channels] = logits.softmax(0) @ v[:, channels]
    return heads @ attention.from_heads.weight.T


@torch.no_grad()
def test_tokens_read_the_slots_by_content_and_time() -> None:
    """Slot 0 was written 3 tokens before the segment, slot 1 further ago than the bias table reaches."""
    core, x = layer(), tokens(1, 4)
    memory = Slots(tokens(1, 2, seed=2), torch.tensor([[3, 1000]]))
    y, _ = core(x, memory)
    plain = DecoderLayer(DecoderConfig(width=D, heads=HEADS)).double()
    plain.load_state_dict({name: value for name, value in core.state_dict().items() if name in plain.state_dict()})
    q, k, v = plain.project(x, plain.rotations(4)[:4])
    attended = x[0] + plain.from_heads(plain.attend(q, k, v, None).flatten(-2))[0]
    distances = torch.tensor([[place + 3, place + 1000] for place in range(4)])
    attended = attended + by_hand(core.read, core.read_norm(attended), memory.slots_BSD[0], distances)
    torch.testing.assert_close(y[0], attended + core.feed_forward(attended))


@torch.no_grad()
def test_a_slot_asks_the_segments_outputs() -> None:
    """Equations of tok2mem: attention, feed-forward net, each with residual and norm; padding isn't looked at."""
    core, x = layer(), tokens(1, 5)
    memory = Slots(tokens(1, 2, seed=2), torch.tensor([[7, 2]]))
    y, after = core(x, memory, torch.tensor([3]))
    old = memory.slots_BSD[0, :1]
    asked = by_hand(core.write, old, core.token_norm(y[0, :3]), torch.tensor([[7, 8, 9]]))
    new = core.written_norm(old + asked)
    new = core.slot_norm(new + core.slot_feed_forward(new))
    torch.testing.assert_close(after.slots_BSD[0, :1], BLEND * new + (1 - BLEND) * old)
    assert torch.equal(after.slots_BSD[0, 1], memory.slots_BSD[0, 1])


def candidate(core: ELMURLayer, memory: Slots, slot: int, y_BLD: Tensor) -> Tensor:
    """Return the value that writing this slot of batch element 0 would blend in."""
    slots_B1D, ages_B1 = memory.slots_BSD[:, slot : slot + 1], memory.ages_BS[:, slot : slot + 1]
    return core._candidate(slots_B1D, ages_B1, y_BLD, torch.full((1,), y_BLD.shape[1]))[0, 0]


@torch.no_grad()
def test_empty_slots_are_filled_then_the_least_recently_used_is_blended() -> None:
    core = layer(slots=3)
    state, lengths = core.initial_state(1), [4, 2, 3, 5, 1]
    slots = [0, 1, 2, 0, 1]
    ages = [[0, None, None], [2, 0, None], [5, 3, 0], [0, 8, 5], [1, 0, 6]]
    for segment, (length, slot, expected) in enumerate(zip(lengths, slots, ages, strict=True)):
        y, after = core(tokens(1, length, seed=segment), state)
        new, old = candidate(core, state, slot, y), state.slots_BSD[0, slot]
        written = new if segment < 3 else BLEND * new + (1 - BLEND) * old
        torch.testing.assert_close(after.slots_BSD[0, slot], written)
        for other in {0, 1, 2} - {slot}:
            assert torch.equal(after.slots_BSD[0, other], state.slots_BSD[0, other])
        found = [None if age >= NEVER else age for age in after.ages_BS[0].tolist()]
        assert found == expected
        state = after


@torch.no_grad()
def test_a_lane_without_tokens_is_not_written() -> None:
    core = layer()
    _, state = core(tokens(2, 4), core.initial_state(2))
    for lengths in (torch.tensor([0, 3]), torch.tensor([0, 0])):
        _, after = core(tokens(2, 3, seed=2), state, lengths)
        assert torch.equal(after.slots_BSD[0], state.slots_BSD[0])
        assert torch.equal(after.ages_BS[0], state.ages_BS[0])
    _, after = core(tokens(2, 0), state)
    assert torch.equal(after.slots_BSD, state.slots_BSD)
    assert torch.equal(after.ages_BS, state.ages_BS)


@torch.no_grad()
def test_lanes_write_slots_of_their_own() -> None:
    """One lane skips a segment: from then on the lanes' oldest slots differ."""
    core = layer()
    state = core.initial_state(2)
    for segment, lengths in enumerate(([2, 2], [0, 2], [3, 3])):
        _, state = core(tokens(2, 3, seed=segment), state, torch.tensor(lengths))
    assert state.ages_BS.tolist() == [[3, 0], [0, 3]]


@torch.no_grad()
def test_what_a_slot_held_fades_by_the_blend_alone() -> None:
    """After k times of blending the first content counts (1 - blend)^k: the paper's proposition on forgetting."""
    core, x = layer(slots=1), tokens(1, 3)
    torch.nn.init.zeros_(core.slot_norm.weight)  # the new content is then the same for all
    _, first = core(x, core.initial_state(1))
    other = Slots(first.slots_BSD + 1, first.ages_BS)
    for _ in range(4):
        _, first = core(x, first)
        _, other = core(x, other)
    torch.testing.assert_close(other.slots_BSD - first.slots_BSD, torch.full((1, 1, D), (1 - BLEND) ** 4).double())


@torch.no_grad()
def test_slots_and_times_stay_bounded() -> None:
    """After 2,000 segments, none of them older than S segments; slots within the norm that writing gives them."""
    core = layer(slots=3).float()
    state = core.initial_state(2)
    norms = []
    for segment in torch.randn(2000, 2, 4, D):
        _, state = core(segment, state)
        norms.append(state.slots_BSD.norm(dim=-1).max())
    assert sorted(state.ages_BS[0].tolist()) == [0, 4, 8]
    assert torch.stack(norms)[3:].max() <= math.sqrt(D) * 1.001


@torch.no_grad()
def test_what_is_out_of_the_bias_tables_reach_is_equally_far() -> None:
    """To the last bit, in float32 too: no time is ever too long to be told by a number."""
    core, x, slots = layer(distances=16).float(), tokens(1, 4).float(), tokens(1, 2, seed=2).float()
    far, farther, near = (
        core(x, Slots(slots, torch.tensor([ages])))[0] for ages in ([16, 90], [10**7, NEVER], [11, 90])
    )
    assert torch.equal(far, farther)
    assert not torch.allclose(far, near)


@pytest.mark.parametrize(("option", "value"), [("slots", 0), ("blend", 0.0), ("blend", 1.5), ("distances", 0)])
def test_options_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(ValidationError, match=option):
        ELMURConfig.model_validate({option: value})
