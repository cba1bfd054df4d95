"""Prompts of different lengths in one batch: each goes on as if it were alone, with every mechanism."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl import RecurrentMemoryTransformerWrapper
from rmt_rl.errors import UsageError
from rmt_rl.language.model import Output
from rmt_rl.recurrence import tree_leaves, tree_map
from tests.test_language import CAUSAL, LANES, SEGMENT, ids, make, same

MASKS = {  # True for real tokens, of prompts with 1 token, a full segment of them, and more than two segments
    "left": [[0] * 14 + [1], [0] * 9 + [1] * 6, [1] * 15],
    "right": [[1] + [0] * 14, [1] * 6 + [0] * 9, [1] * 15],
    "holes": [[0, 1, 1] * 5, [0] * 4 + [1, 0] * 4 + [0, 1, 1], [1] * 7 + [0] + [1] * 5 + [0, 0]],
}
NEW = 2 * SEGMENT + 1


def mask_named(name: str) -> Tensor:
    return torch.tensor(MASKS[name]).bool()


def batch_element(tree: Any, index: int) -> Any:
    return tree_map(lambda leaf: leaf[index : index + 1], tree)


def same_state(found: Output, alone: Output, index: int) -> None:
    same(batch_element(found.memories, index), alone.memories)
    if found.xl_memories is None or alone.xl_memories is None:
        assert found.xl_memories is alone.xl_memories
        return
    for layer, layer_alone in zip(found.xl_memories, alone.xl_memories, strict=True):
        torch.testing.assert_close(layer[:, index : index + 1], layer_alone)
    assert found.xl_memories.lengths[index] == alone.xl_memories.lengths[0]


CASES = [(mechanism, "left") for mechanism in CAUSAL] + [("tokens", "right"), ("xl", "holes")]


@pytest.mark.parametrize(("mechanism", "name"), CASES)
@torch.no_grad()
def test_a_prompt_goes_on_as_if_it_were_alone(mechanism: str, name: str) -> None:
    """The same greedy tokens and the same memories, wherever its segments end, also after a memory."""
    model = RecurrentMemoryTransformerWrapper(make(**CAUSAL[mechanism]))
    _, memories, caches = model(ids(SEGMENT))
    x, mask = ids(15, seed=2), mask_named(name)
    for new in (0, NEW):
        found = model.generate(
            x, length=15 + new, mask=mask, memories=memories, xl_memories=caches, temperature=0, return_state=True
        )
        assert found.output.shape == (LANES, new)
        for index in range(LANES):
            prompt = x[index : index + 1, mask[index]]
            own_caches = (
                None
                if caches is None
                else type(caches)(
                    tuple(layer[:, index : index + 1] for layer in caches), caches.lengths[index : index + 1]
                )
            )
            alone = model.generate(
                prompt,
                length=prompt.shape[1] + new,
                memories=batch_element(memories, index),
                xl_memories=own_caches,
                temperature=0,
                return_state=True,
            )
            assert torch.equal(found.output[index], alone.output[0])
            same_state(found, alone, index)


@torch.no_grad()
def test_padding_has_any_value() -> None:
    """Ids outside the vocabulary, and embeddings that are no numbers, may stand for padding."""
    model = make()
    generate = RecurrentMemoryTransformerWrapper(model).generate
    x, mask = ids(15), mask_named("left")
    expected = generate(x, length=25, mask=mask, temperature=0)
    assert torch.equal(generate(x.where(mask, -100), length=25, mask=mask, temperature=0), expected)
    embeddings = model.embed(x).masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(generate(embeddings, length=25, mask=mask, temperature=0), expected)


@torch.no_grad()
def test_a_mask_of_real_tokens_alone_changes_no_bit() -> None:
    generate = RecurrentMemoryTransformerWrapper(make().float()).generate
    x = ids(9)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    plain = generate(x, length=20, generator=seeds[0], return_state=True)
    masked = generate(x, length=20, generator=seeds[1], mask=torch.ones_like(x).bool(), return_state=True)
    for left, right in zip(tree_leaves(plain[:2]), tree_leaves(masked[:2]), strict=True):
        assert torch.equal(left, right)


@torch.no_grad()
def test_a_seed_makes_the_same_tokens_of_the_same_batch() -> None:
    generate = RecurrentMemoryTransformerWrapper(make()).generate
    x, mask = ids(15), mask_named("left")
    first, again = (generate(x, length=30, mask=mask, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)


def test_masks_that_do_not_fit() -> None:
    generate = RecurrentMemoryTransformerWrapper(make()).generate
    x = ids(15)
    wrong: Any
    for wrong in (torch.ones(LANES, 14).bool(), torch.ones(LANES, 15), torch.ones(15).bool(), [[True]]):
        with pytest.raises(UsageError, match=r"mask is .*bool"):
            generate(x, length=20, mask=wrong)
    mask = mask_named("left")
    mask[1] = False
    with pytest.raises(UsageError, match=r"no real token \(True\) in batch elements \[1\]: each prompt needs"):
        generate(x, length=20, mask=mask)
    with pytest.raises(UsageError, match=r"x has ids from . to 50"):
        generate(x.where(x > 0, 50), length=20, mask=torch.ones_like(x).bool())
    with pytest.raises(UsageError, match="ids are int64"):
        generate(x[0], length=20)
    with pytest.raises(UsageError, match="mask is"):
        generate(x[0], length=20, mask=torch.ones(15).bool())
