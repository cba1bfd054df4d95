"""The language model against its own segments: replay, masks, labels, caches, generation; and the peers' snippets."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper
from rmt_rl.errors import UsageError
from rmt_rl.language.model import Output
from rmt_rl.language.state import XLMemories
from rmt_rl.memory.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.memory.valve import CrossAttention2, LSTMValve
from rmt_rl.nn import attention
from rmt_rl.nn.hyper_connections import HyperConnection
from rmt_rl.recurrence import tree_leaves, tree_map

SEGMENT, VOCABULARY, LANES = 6, 11, 3
SMALL: dict[str, Any] = {
    "dim": 16,
    "num_tokens": VOCABULARY,
    "depth": 2,
    "num_memory_tokens": 3,
    "seq_len": SEGMENT,
    "dim_head": 4,
    "heads": 2,
    "dropout": 0.1,
}
XL: dict[str, Any] = {"use_xl_memories": True, "xl_mem_len": 5}
CAUSAL: dict[str, dict[str, Any]] = {
    "tokens": {},
    "valve": {"valve": "lstm"},
    "absolute": {"abs_pos_emb": True},
    "xl": XL,
    "enhanced xl": {**XL, "enhanced_xl_recurrence": True},
    "xl alone": {**XL, "memory": "none"},
    "none": {"memory": "none"},
    "no positions": {"rotary_pos_emb": False},
    "geglu": {"ff_glu": True},
    "token shift": {"token_shift": True},
    "value residual": {"value_residual": True},
    "hyper-connections": {"num_residual_streams": 2},
    "shift, streams and xl": {**XL, "token_shift": True, "num_residual_streams": 2, "ff_glu": True},
    "mag with shift and streams": {"memory": "titans_mag", "token_shift": True, "num_residual_streams": 2},
    "armt": {"memory": "armt"},
    "mac": {"memory": "titans_mac"},
    "mag": {"memory": "titans_mag"},
    "mal": {"memory": "titans_mal"},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "encoder": {"causal": False},
    "encoder with valve": {"causal": False, "valve": "ca-2"},
    "encoder with shift and streams": {"causal": False, "token_shift": True, "num_residual_streams": 2},
    "encoder alone": {"causal": False, "memory": "none"},
}
EVERY = CAUSAL | ENCODERS


def make(**options: Any) -> RecurrentMemoryTransformer:
    torch.manual_seed(0)
    return RecurrentMemoryTransformer(**SMALL | options).double().eval()


def ids(length: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (LANES, length), generator=generator)


def same(left: Any, right: Any) -> None:
    for a, b in zip(tree_leaves(left), tree_leaves(right), strict=True):
        torch.testing.assert_close(a, b)


# The snippets that users of recurrent-memory-transformer-pytorch know, with smaller sizes


def test_snippet_of_segments() -> None:
    model = RecurrentMemoryTransformer(
        num_tokens=2000, num_memory_tokens=8, dim=32, depth=2, causal=True, dim_head=16, heads=2, seq_len=64,
        use_flash_attn=True,
    )  # fmt: skip
    x = torch.randint(0, 256, (1, 64))
    logits1, mem1, none = model(x)
    assert logits1.shape == (1, 64, 2000)
    assert mem1.shape == (1, 8, 32)
    assert none is None
    logits2, mem2, _ = model(x, mem1)
    logits3, _, _ = model(x, mem2)
    assert not torch.allclose(logits1, logits2)
    assert not torch.allclose(logits2, logits3)


def test_snippet_of_xl_memories() -> None:
    model = RecurrentMemoryTransformer(
        num_tokens=2000, num_memory_tokens=8, dim=32, depth=3, causal=True, dim_head=16, heads=2, seq_len=64,
        use_flash_attn=True, use_xl_memories=True, xl_mem_len=32,
    )  # fmt: skip
    x = torch.randint(0, 256, (1, 64))
    _, mem1, xl_mem1 = model(x)
    assert [each.shape for each in xl_mem1] == [(2, 1, 32, 32)] * 3
    logits2, mem2, xl_mem2 = model(x, mem1, xl_memories=xl_mem1)
    logits3, _, _ = model(x, mem2, xl_memories=xl_mem2)
    plain, _, _ = model(x, mem1, xl_memories=list(xl_mem1))  # a full cache needs no counts
    assert logits3.shape == (1, 64, 2000)
    torch.testing.assert_close(plain, logits2)


def test_snippet_of_memory_replay() -> None:
    model = RecurrentMemoryTransformerWrapper(
        RecurrentMemoryTransformer(num_tokens=256, num_memory_tokens=8, dim=32, depth=2, seq_len=64, causal=True)
    )
    seq = torch.randint(0, 256, (2, 4096))
    loss = model(seq, memory_replay_backprop=True)
    assert loss.shape == ()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_snippet_of_the_readme() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["text"].shape == (1, 290)


# One segment


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@torch.no_grad()
def test_a_sequence_is_its_segments_chained(options: dict[str, Any]) -> None:
    model, x = make(**options), ids(2 * SEGMENT + 2)
    logits, memories, caches = [], None, None
    for part in x.split(SEGMENT, 1):
        out, memories, caches = model(part, memories, xl_memories=caches)
        logits.append(out)
    expected = RecurrentMemoryTransformerWrapper(model)(x)
    torch.testing.assert_close(torch.cat(logits, 1), expected.output)
    same(memories, expected.memories)
    same(tuple(caches or ()), tuple(expected.xl_memories or ()))


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@torch.no_grad()
def test_masked_tokens_change_nothing_wherever_they_stand(options: dict[str, Any]) -> None:
    model, x = make(**options), ids(2 * SEGMENT)
    mask = torch.ones(LANES, 2 * SEGMENT, dtype=torch.bool)
    mask[0, :2], mask[1, 3], mask[1, SEGMENT:] = False, False, False  # in front, in a hole, a whole segment
    mask[2, :SEGMENT] = False  # the first one
    out = RecurrentMemoryTransformerWrapper(model)(x, mask=mask)
    other = RecurrentMemoryTransformerWrapper(model)(x.where(mask, (x + 1) % VOCABULARY), mask=mask)
    torch.testing.assert_close(out.output[mask], other.output[mask])
    same(out.memories, other.memories)
    alone, memories, caches = model(x[:1, 2:SEGMENT])
    torch.testing.assert_close(out.output[:1, 2:SEGMENT], alone)
    later = model(x[:1, SEGMENT:], memories, xl_memories=caches)
    torch.testing.assert_close(out.output[:1, SEGMENT:], later.output)
    hole = torch.arange(SEGMENT)[None] != 3
    for lane, alone in ((1, model(x[1:2, :SEGMENT], mask=hole)), (2, model(x[2:, SEGMENT:]))):
        same(tree_map(lambda each, lane=lane: each[lane : lane + 1], out.memories), alone.memories)
        same([each[:, lane : lane + 1] for each in out.xl_memories or ()], alone.xl_memories or [])
    torch.testing.assert_close(out.output[2:, SEGMENT:], alone.output)


@torch.no_grad()
def test_caches_of_lanes_with_different_lengths_go_on_right() -> None:
    model, x = make(**XL), ids(2 * SEGMENT)
    mask = torch.arange(SEGMENT) < torch.tensor([[2], [6], [4]])
    _, memories, caches = model(x[:, :SEGMENT], mask=mask)
    caches = XLMemories(tuple(cache.clone() for cache in caches), caches.lengths)
    out, _, _ = model(x[:, SEGMENT:], memories, xl_memories=caches)
    for lane, length in enumerate([2, 6, 4]):
        _, own, cache = model(x[lane : lane + 1, :length])
        expected, _, _ = model(x[lane : lane + 1, SEGMENT:], own, xl_memories=cache)
        torch.testing.assert_close(out[lane : lane + 1], expected)


@torch.no_grad()
def test_a_cached_token_of_zeros_is_told_from_an_empty_place() -> None:
    """Tokens whose channels are equal are normed to zero, and so are their keys and values."""
    model = make(**XL, memory="none", depth=1)
    flat, x = torch.ones(LANES, 2, 16).double(), model.embed(ids(SEGMENT))
    _, memories, caches = model(flat)
    assert not caches[0].any()
    assert caches.lengths.tolist() == [2] * LANES
    _, state = model.run(flat, model.initial_state(LANES))
    same(model.state(LANES, memories, caches), state)
    out = model(x, xl_memories=caches)
    same(out[:2], model.output(model.head(model.run(x, state)[0]), ())[:2])
    assert not torch.allclose(out.output, model(x).output)


@torch.no_grad()
def test_a_plain_list_of_caches_is_taken_as_full() -> None:
    model, x = make(**XL), ids(SEGMENT)
    _, memories, caches = model(x[:, :2], mask=torch.tensor([[True, True], [True, False], [False, False]]))
    assert caches.lengths.tolist() == [5, 5, 0]  # with memory tokens, read and written
    assert [tuple(cache.shape) for cache in caches] == [(2, LANES, 5, 8)] * 2
    assert len(caches) == len(caches[:]) == 2
    full = XLMemories(caches.layers, torch.full((LANES,), 5))
    same(model(x, memories, xl_memories=list(caches))[:2], model(x, memories, xl_memories=full)[:2])
    assert not torch.allclose(
        model(x, memories, xl_memories=caches).output, model(x, memories, xl_memories=full).output
    )


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@torch.no_grad()
def test_what_a_model_begins_with_is_its_first_memory(options: dict[str, Any]) -> None:
    model, x = make(**options), ids(SEGMENT)
    same(tuple(model(x, model.init_memory(LANES)))[:2], tuple(model(x))[:2])


@torch.no_grad()
def test_embeddings_go_in_and_come_out() -> None:
    model, x = make(), ids(SEGMENT)
    expected = model(x)
    torch.testing.assert_close(model(model.embed(x)).output, expected.output)
    embeddings = model(x, return_embeddings=True).output
    assert embeddings.shape == (LANES, SEGMENT, 16)
    torch.testing.assert_close(model.head(embeddings), expected.output)


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@torch.no_grad()
def test_a_wrapper_returns_embeddings(options: dict[str, Any]) -> None:
    model, x = make(**options), ids(2 * SEGMENT + 2)
    wrapper = RecurrentMemoryTransformerWrapper(model)
    embeddings, *state = wrapper(x, return_embeddings=True)
    logits, *same_state = wrapper(x)
    same(model.head(embeddings), logits)
    same(state[0], same_state[0])


def test_embeddings_of_another_dtype_are_taken() -> None:
    model = make(xl_mem_len=5, use_xl_memories=True)
    x = model.embed(ids(SEGMENT)).detach()
    same(model(x.bfloat16()), model(x.bfloat16().double()))


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
def test_a_state_of_inference_mode_goes_on_into_training(options: dict[str, Any]) -> None:
    model, x = make(**options), ids(SEGMENT)
    with torch.inference_mode():
        _, memories, caches = model(x)
    model(x, memories, labels=x, xl_memories=caches).output.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.head.weight.grad is not None


@pytest.mark.parametrize("options", [{"valve": "ca-2"}, {"causal": False}], ids=["tokens and valve", "encoder"])
def test_a_segment_is_one_graph(options: dict[str, Any]) -> None:
    model, x = make(**options), ids(SEGMENT)
    attention._tables.clear()  # so that a graph makes them
    exported = torch.export.export(model, (x,)).module()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        there = compiled(x)
    out = model(x)
    out.output.sum().backward()  # by tables of its own
    same(there[:2], out[:2])
    same(exported(x)[:2], out[:2])
    same(compiled(x, there.memories)[:2], model(x, out.memories)[:2])


@torch.no_grad()
def test_a_segment_with_caches_is_one_graph() -> None:
    model, x = make(**XL), ids(SEGMENT)
    out = model(x[:, :2])
    expected = model(x, out.memories, xl_memories=out.xl_memories)
    exported = torch.export.export(model, (x, out.memories), {"xl_memories": out.xl_memories}).module()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for graph in (exported, compiled):
        found = graph(x, out.memories, xl_memories=out.xl_memories)
        same(found[:2], expected[:2])
        same(found.xl_memories, expected.xl_memories)
        assert torch.equal(found.xl_memories.lengths, expected.xl_memories.lengths)


@torch.no_grad()
def test_an_encoder_sees_later_tokens_of_its_segment_only() -> None:
    model, x = RecurrentMemoryTransformerWrapper(make(causal=False)), ids(2 * SEGMENT)
    before = model(x).output
    x[:, SEGMENT - 1] = (x[:, SEGMENT - 1] + 1) % VOCABULARY
    assert not torch.allclose(model(x).output[:, 0], before[:, 0])
    x[:, -1] = (x[:, -1] + 1) % VOCABULARY
    torch.testing.assert_close(model(x).output[:, :SEGMENT], model(x[:, :SEGMENT]).output)


@torch.no_grad()
def test_absolute_positions_tell_places_apart() -> None:
    """Without positions a decoder of one layer gives the same for equal tokens that see equal ones."""
    x = torch.zeros(1, SEGMENT, dtype=torch.long)
    logits = make(abs_pos_emb=True, memory="none", depth=1)(x).output[0]
    assert not torch.allclose(logits[0], logits[1])
    logits = make(memory="none", depth=1)(x).output[0]
    torch.testing.assert_close(logits[0], logits[1])


@torch.no_grad()
def test_every_option_changes_the_output() -> None:
    """Hyper-connections don't at first; from the same random numbers all others do."""
    x = ids(SEGMENT)
    plain = make()(x).output
    for name in ("no positions", "geglu", "token shift", "value residual"):
        assert not torch.allclose(make(**EVERY[name])(x).output, plain), name


# Losses


def gradients(options: dict[str, Any], x: Tensor, **how: Any) -> tuple[Tensor, list[Tensor]]:
    model = RecurrentMemoryTransformerWrapper(make(**options).train())
    torch.manual_seed(3)
    loss = model(x, **how)
    if loss.requires_grad:
        loss.backward()
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
    return loss.detach(), grads


@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
def test_replay_is_full_backpropagation(options: dict[str, Any]) -> None:
    """With dropout, XL caches and an uneven last segment."""
    x = ids(3 * SEGMENT + 3)
    loss, expected = gradients(options, x, return_loss=True)
    replayed, grads = gradients(options, x, memory_replay_backprop=True)
    torch.testing.assert_close(replayed, loss)
    for left, right in zip(grads, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    _, halved = gradients(options, x, memory_replay_backprop=True, mrbp_loss_weight=0.5)
    for left, right in zip(halved, expected, strict=True):
        torch.testing.assert_close(2 * left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
def test_replay_is_full_backpropagation_of_ragged_sequences_with_labels(options: dict[str, Any]) -> None:
    """Holes, a segment without a token, one sequence that ends early; encoders too."""
    x, labels = ids(3 * SEGMENT + 3), ids(3 * SEGMENT + 3, seed=2)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 2:4], mask[1, SEGMENT : 2 * SEGMENT], mask[2, SEGMENT + 2 :] = False, False, False
    loss, expected = gradients(options, x, mask=mask, labels=labels)
    replayed, grads = gradients(options, x, mask=mask, labels=labels, memory_replay_backprop=True)
    torch.testing.assert_close(replayed, loss)
    for left, right in zip(grads, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, XL], ids=["tokens", "xl"])
@pytest.mark.parametrize("depth", [1, 2])
def test_replay_is_truncated_as_it_is_told(options: dict[str, Any], depth: int) -> None:
    x = ids(3 * SEGMENT)
    loss, expected = gradients(options, x, return_loss=True, truncate_at_step=depth)
    replayed, grads = gradients(options, x, memory_replay_backprop=True, truncate_at_step=depth)
    torch.testing.assert_close(replayed, loss)
    for left, right in zip(grads, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    _, full = gradients(options, x, return_loss=True)
    assert not all(torch.allclose(left, right) for left, right in zip(grads, full, strict=True))


def test_logits_are_truncated_as_they_are_told() -> None:
    x = make().embed(ids(3 * SEGMENT)).detach().requires_grad_()
    RecurrentMemoryTransformerWrapper(make(), truncate_at_step=2)(x).output[:, -1].sum().backward()
    assert x.grad is not None
    assert not x.grad[:, :SEGMENT].any()
    assert x.grad[:, SEGMENT : 2 * SEGMENT].any()


@pytest.mark.parametrize("options", [{}, {"memory": "titans_mag"}, XL], ids=["tokens", "mag", "xl"])
def test_replay_reaches_what_embeddings_and_memories_were_made_of(options: dict[str, Any]) -> None:
    """Both by one graph: the memories are of a first part of the text, read with its gradient."""
    x, table = ids(3 * SEGMENT), torch.nn.Embedding(VOCABULARY, SMALL["dim"], dtype=torch.float64)
    found = []
    for how in ({"memory_replay_backprop": True}, {}):
        table.zero_grad()
        model = RecurrentMemoryTransformerWrapper(make(**options))
        embedded = table(x)
        before = model(embedded[:, :SEGMENT])
        kept = {"memories": before.memories, "xl_memories": before.xl_memories}
        loss = model(embedded[:, SEGMENT:], labels=x[:, SEGMENT:], **kept, **how)
        if not how:
            loss.backward()
        weights = [table.weight, *model.parameters()]
        found.append([weight.grad.clone() for weight in weights if weight.grad is not None])
    same(*found)


@pytest.mark.parametrize("options", [{}, {"memory": "none"}], ids=["tokens", "none"])
def test_no_label_is_predicted_from_a_token_that_the_mask_leaves_out(options: dict[str, Any]) -> None:
    """Padding on the left and in holes, next tokens as labels: what is left out has no part in the loss."""
    model, x = RecurrentMemoryTransformerWrapper(make(**options)).eval(), ids(2 * SEGMENT)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, :3], mask[1, 4:6] = False, False
    loss = model(x, mask=mask, return_loss=True)
    labels = torch.cat((x[:, 1:], torch.full_like(x[:, :1], -1)), 1)
    labels[:, :-1][~(mask[:, 1:] & mask[:, :-1])] = -1
    torch.testing.assert_close(model(x, mask=mask, labels=labels), loss)
    changed = torch.where(mask, x, (x + 1) % VOCABULARY)
    torch.testing.assert_close(model(changed, mask=mask, return_loss=True), loss)


def test_truncation_cuts_the_gradient_and_not_the_memory() -> None:
    x = ids(3 * SEGMENT)
    labels = torch.full_like(x, -1)
    labels[:, -1] = 0  # only the last segment has a loss
    reached = {}
    for depth in (1, 2, 3):
        model = RecurrentMemoryTransformerWrapper(make(), truncate_at_step=depth)
        embeddings = model.transformer.embed(x).detach().requires_grad_()
        loss = model(embeddings, labels=labels)
        (gradient,) = torch.autograd.grad(loss, embeddings)
        reached[depth] = int((gradient.abs().sum((0, 2)).view(3, SEGMENT).sum(1) > 0).sum())
        torch.testing.assert_close(loss, RecurrentMemoryTransformerWrapper(make())(embeddings, labels=labels))
    assert reached == {1: 1, 2: 2, 3: 3}


@torch.no_grad()
def test_the_loss_is_the_mean_over_labels_that_count() -> None:
    model, x = RecurrentMemoryTransformerWrapper(make()), ids(2 * SEGMENT + 1)
    logits = model(x[:, :-1]).output
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(model(x, return_loss=True), expected, rtol=1e-14, atol=0)  # not in float32 anywhere
    torch.testing.assert_close(model(x[:, :-1], labels=x[:, 1:]), expected, rtol=1e-14, atol=0)
    labels, mask = x[:, 1:].clone(), torch.ones(LANES, 2 * SEGMENT, dtype=torch.bool)
    labels[:, ::2] = -1
    mask[1, 4:] = False
    counted = (labels != -1) & mask
    expected = torch.nn.functional.cross_entropy(model(x[:, :-1], mask=mask).output[counted], labels[counted])
    torch.testing.assert_close(model(x[:, :-1], labels=labels, mask=mask), expected)
    one = model.transformer(x[:, :SEGMENT], labels=labels[:, :SEGMENT], mask=mask[:, :SEGMENT]).output
    counted = counted[:, :SEGMENT]
    logits = model(x[:, :SEGMENT], mask=mask[:, :SEGMENT]).output
    torch.testing.assert_close(one, torch.nn.functional.cross_entropy(logits[counted], labels[:, :SEGMENT][counted]))


@pytest.mark.parametrize("how", [{"return_loss": True}, {"memory_replay_backprop": True}], ids=["full", "replay"])
@pytest.mark.parametrize("options", [{}, XL, {"memory": "titans_mac"}], ids=["tokens", "xl", "mac"])
def test_losses_go_on_from_the_state_that_they_return(options: dict[str, Any], how: dict[str, Any]) -> None:
    model, x = RecurrentMemoryTransformerWrapper(make(**options)), ids(4 * SEGMENT + 1)
    first = model(x[:, : 2 * SEGMENT + 1], return_state=True, **how)
    second = model(x[:, 2 * SEGMENT :], first.memories, xl_memories=first.xl_memories, return_state=True, **how)
    whole = model(x, return_state=True, **how)
    torch.testing.assert_close((first.output + second.output) / 2, whole.output)
    same(second.memories, whole.memories)
    assert not any(leaf.requires_grad for leaf in tree_leaves(second.memories))


# Generation


@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
@torch.no_grad()
def test_generation_is_teacher_forcing(options: dict[str, Any]) -> None:
    """Greedy tokens, over segments' ends, are what the whole sequence's logits say; a memory may come before."""
    model = RecurrentMemoryTransformerWrapper(make(**options))
    _, memories, caches = model(ids(SEGMENT))
    for prime in (1, SEGMENT, SEGMENT + 2):
        x, length = ids(prime, seed=2), 3 * SEGMENT + 1
        new = model.generate(x, length=length, memories=memories, xl_memories=caches, temperature=0)
        assert new.shape == (LANES, length - prime)
        logits = model(torch.cat((x, new), 1)[:, :-1], memories, xl_memories=caches).output
        assert torch.equal(logits[:, prime - 1 :].argmax(2), new)


@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
@torch.no_grad()
def test_generation_returns_the_state_before_its_last_token(options: dict[str, Any]) -> None:
    """Within a segment or at its end, and where nothing new was asked for."""
    model = RecurrentMemoryTransformerWrapper(make(**options))
    _, memories, caches = model(ids(SEGMENT))
    for prime, length in ((1, 1), (1, 3), (SEGMENT, SEGMENT), (2, SEGMENT + 1), (SEGMENT + 1, 2 * SEGMENT + 3)):
        x = ids(prime, seed=2)
        given: dict[str, Any] = {"memories": memories, "xl_memories": caches}
        found = model.generate(x, length=length, temperature=0, return_state=True, **given)
        assert torch.equal(found.output, model.generate(x, length=length, temperature=0, **given))
        read = torch.cat((x, found.output), 1)[:, :-1]
        expected = model(read, **given) if length > 1 else Output(x, memories, caches)
        same(found.memories, expected.memories)
        same(found.xl_memories or (), expected.xl_memories or ())


@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
def test_a_state_of_generation_is_a_value_without_dropout(options: dict[str, Any]) -> None:
    model = RecurrentMemoryTransformerWrapper(make(**options, dropout=0.1))
    for length in (1, 4):
        calm, lively = (
            model.train(on).generate(ids(1), length=length, temperature=0, return_state=True) for on in (False, True)
        )
        same(calm.memories, lively.memories)
        same(calm.xl_memories or (), lively.xl_memories or ())
        own = {parameter.data_ptr() for parameter in model.parameters()}
        assert not any(leaf.requires_grad or leaf.data_ptr() in own for leaf in tree_leaves(lively.memories))


@torch.no_grad()
def test_generation_goes_on_where_a_segment_ended() -> None:
    model = RecurrentMemoryTransformerWrapper(make())
    begun = model.generate(ids(2), length=SEGMENT + 1, temperature=0, return_state=True)
    more = model.generate(begun.output[:, -1:], length=SEGMENT, memories=begun.memories, temperature=0)
    at_once = model.generate(ids(2), length=2 * SEGMENT, temperature=0)
    assert torch.equal(torch.cat((begun.output, more), 1), at_once)


@torch.no_grad()
def test_generation_goes_on_from_embeddings() -> None:
    model, x = make(), ids(SEGMENT + 2)
    generate = partial(RecurrentMemoryTransformerWrapper(model).generate, temperature=0)
    for length in (SEGMENT + 2, SEGMENT + 5):
        assert torch.equal(generate(model.embed(x), length=length), generate(x, length=length))


@torch.no_grad()
def test_sampling_follows_the_probabilities() -> None:
    model = RecurrentMemoryTransformerWrapper(make(dim=4))
    x = torch.zeros(4000, 1, dtype=torch.long)
    probabilities = model(x[:1]).output[0, -1].div(0.5).softmax(0)
    generator = torch.Generator().manual_seed(0)
    drawn = model.generate(x, length=2, temperature=0.5, generator=generator)
    found = torch.bincount(drawn[:, 0], minlength=VOCABULARY) / len(x)
    torch.testing.assert_close(found.double(), probabilities, atol=0.03, rtol=0)
    top = model.generate(x, length=2, top_k=2, generator=generator)
    assert set(top[:, 0].tolist()) == set(probabilities.topk(2).indices.tolist())
    again = [model.generate(x[:9], length=9, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*again)


def test_generation_leaves_a_part_in_its_mode() -> None:
    model = make().train()
    model.core.eval()
    RecurrentMemoryTransformerWrapper(model).generate(ids(2), length=3)
    assert model.head.training
    assert not any(module.training for module in model.core.modules())


def test_generation_leaves_the_mode_as_it_was() -> None:
    model = RecurrentMemoryTransformerWrapper(make()).train()
    model.generate(ids(2), length=3)
    assert model.training


# Mistakes


def bad(memory: str, **options: Any) -> dict[str, Any]:
    return {"memory": memory, **options}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (bad("titans_mac", valve="ca-2"), "valve='ca-2', given memory='titans_mac'.*: it needs memory='tokens'"),
        (bad("titans_mag", causal=False), "causal=False, given memory='titans_mag'.*: it needs memory='tokens'"),
        (bad("tokens", causal=False, use_xl_memories=True), "use_xl_memories=True, given .*needs causal=True"),
        (bad("titans_mal", use_xl_memories=True), "use_xl_memories=True, given memory='titans_mal'"),
        (bad("tokens", use_xl_memories=True, abs_pos_emb=True), "abs_pos_emb=True.*needs use_xl_memories=False"),
        (bad("armt", num_residual_streams=3), "num_residual_streams=3, given memory='armt'"),
        (bad("tokens", value_residual=True, token_shift=True), "value_residual=True.*it needs .*no token_shift"),
        (bad("titans_mac", value_residual=True), "value_residual=True, given memory='titans_mac'"),
        ({"memory": "titans"}, "memory='titans'.*did you mean 'titans_m"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_memory_tokens": 0}, "num_memory_tokens=0"),
        ({"num_memory_tokens": 0, "memory": "armt"}, "num_memory_tokens=0"),
        ({**XL, "xl_mem_len": 3}, "xl_mem_len=3"),
        ({**XL, "xl_mem_len": 0, "memory": "none"}, "xl_mem_len=0"),
        ({"valve": "ca2"}, "valve='ca2' is none of none, ca-2"),
        ({"seq_len": 0}, "seq_len=0"),
        ({"num_residual_streams": 0}, "num_residual_streams=0"),
        ({"depth": 0}, "depth=0 must be a whole number, 1 or more"),
        ({"dim": 0}, "dim=0"),
        ({"num_tokens": -1}, "num_tokens=-1"),
        ({"ff_mult": -1}, "ff_mult=-1"),
        ({"dim_head": 3}, "dim_head=3 must be even"),
        ({"num_memory_tokens": -1, "memory": "titans_mac"}, "num_memory_tokens=-1 must be a whole number, 0 or more"),
        ({"num_memory_tokens": 3.0}, r"num_memory_tokens=3\.0 must be a whole number"),
        ({"num_residual_streams": 1.5}, r"num_residual_streams=1\.5 must be a whole number"),
        ({"seq_len": 6.5}, r"seq_len=6\.5 must be a whole number"),
        ({**XL, "xl_mem_len": 5.5}, r"xl_mem_len=5\.5 must be a whole number"),
        ({"xl_mem_len": 4}, "xl_mem_len or .*needs use_xl_memories=True"),
        ({"enhanced_xl_recurrence": True}, "xl_mem_len or .*needs use_xl_memories=True"),
        ({"dropout": 2.0}, "dropout=2"),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "module", "attributes"),
    [
        ({"memory": "titans_mac"}, MemoryAsContext, {}),
        ({"memory": "titans_mag"}, MemoryAsGate, {}),
        ({"memory": "titans_mal"}, MemoryAsLayer, {}),
        ({"valve": "ca-2"}, CrossAttention2, {}),
        ({"valve": "lstm"}, LSTMValve, {}),
        ({"num_residual_streams": 3}, HyperConnection, {}),
        ({"dropout": 0.3}, torch.nn.Dropout, {"p": 0.3}),
        ({"ff_mult": 2}, torch.nn.Linear, {"out_features": 32}),
        ({**XL, "enhanced_xl_recurrence": True}, TransformerXLLayer, {"keeps_outputs": True}),
        (XL, TransformerXLLayer, {"keeps_outputs": False}),
    ],
)
def test_options_build_what_they_name(options: dict[str, Any], module: type, attributes: dict[str, Any]) -> None:
    def found(model: RecurrentMemoryTransformer) -> bool:
        return any(
            isinstance(each, module) and all(getattr(each, name) == value for name, value in attributes.items())
            for each in model.modules()
        )

    assert found(make(**options))
    assert not found(make())


def test_shapes_that_do_not_fit() -> None:
    model, x = make(**XL), ids(SEGMENT)
    _, memories, caches = model(x)
    with pytest.raises(UsageError, match="x has 12 tokens, more than seq_len=6"):
        model(ids(2 * SEGMENT))
    for wrong in (
        x + VOCABULARY,
        x - VOCABULARY,
        torch.zeros(LANES, SEGMENT, 3),
        torch.zeros(LANES, SEGMENT),
        x[0],
        x.to(torch.uint8),
        x.int(),
        x[..., None],
    ):
        with pytest.raises(UsageError, match=r"ids are int64|must be from 0 to 10"):
            model(wrong)
        wrapper = RecurrentMemoryTransformerWrapper(model)
        for call in (wrapper, partial(wrapper, memory_replay_backprop=True), partial(wrapper.generate, length=9)):
            with pytest.raises(UsageError, match=r"ids are int64|must be from 0 to 10"):
                call(wrong)
    with pytest.raises(UsageError, match=r"mask is torch\.bool of shape"):
        model(x, mask=torch.ones(LANES, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"mask is torch\.int64"):
        model(x, mask=torch.ones_like(x))
    for labels in (x[:, 1:], torch.cat((x, x), 1), x[:1], x.int()):
        with pytest.raises(UsageError, match="labels have shape"):
            model(x, labels=labels)
        with pytest.raises(UsageError, match="labels have shape"):
            RecurrentMemoryTransformerWrapper(model)(x, labels=labels)
    with pytest.raises(UsageError, match="labels but for ignore_index=-1 has ids from -100 to"):
        model(x, labels=x.where(x > 0, -100))
    with pytest.raises(UsageError, match="truncate_at_step=0"):
        RecurrentMemoryTransformerWrapper(model)(x, truncate_at_step=0)
    with pytest.raises(UsageError, match=r"truncate_at_step=1\.5"):
        RecurrentMemoryTransformerWrapper(model, truncate_at_step=1.5)  # type: ignore[arg-type]
    with torch.no_grad(), pytest.raises(UsageError, match="gradients are off"):
        RecurrentMemoryTransformerWrapper(model)(x, memory_replay_backprop=True)
    for temperature in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="temperature="):
            RecurrentMemoryTransformerWrapper(model).generate(x, length=9, temperature=temperature)
    with pytest.raises(UsageError, match="top_k=0"):
        RecurrentMemoryTransformerWrapper(model).generate(x, length=9, top_k=0)
    with pytest.raises(UsageError, match="memories of shapes"):
        model(x[:1], memories)
    with pytest.raises(UsageError, match="xl_memories of shapes"):
        model(x, memories, xl_memories=caches[:1])
    with pytest.raises(UsageError, match="xl_memories of shapes"):
        model(x, memories, xl_memories=caches[0])
    lengths: Any
    for lengths in (caches.lengths[:1], caches.lengths.int(), caches.lengths - 6, caches.lengths + 1, 5):
        with pytest.raises(UsageError, match=r"xl_memories have lengths .*int64 \(3,\) from 0 to 5 are needed"):
            model(x, memories, xl_memories=XLMemories(caches.layers, lengths))
    with pytest.raises(UsageError, match="memories has XLMemories in it"):
        model(x, model(x))
    with pytest.raises(UsageError, match="memories has int in it"):
        model(x, 3)
    with pytest.raises(UsageError, match="xl_memories has int in it"):
        model(x, memories, xl_memories=3)
    encoder = RecurrentMemoryTransformerWrapper(make(causal=False))
    with pytest.raises(UsageError, match="labels are needed"):
        encoder(x, return_loss=True)
    with pytest.raises(UsageError, match="can't generate"):
        encoder.generate(x, length=9)
