"""Sequences of any length by a token model: cut into segments, with a loss, gradients, and generation.

Dimensions: B batch elements, N tokens of a sequence, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, Unpack, overload

import torch
from torch import Tensor, nn

from rmt_rl import backprop
from rmt_rl.errors import UsageError
from rmt_rl.language.checks import check_depth, check_mask
from rmt_rl.language.generation import GenerationOptions, generate
from rmt_rl.language.model import Output, RecurrentMemoryTransformer
from rmt_rl.language.state import Memories
from rmt_rl.recurrence import Tree, detach, tree_leaves, tree_map

Segments: TypeAlias = tuple[Tensor, ...]
Masks: TypeAlias = Sequence[Tensor | None]


class Labelled(NamedTuple):
    """Tokens (B, N) or (B, N, D), what each predicts (B, N), and a mask of real tokens (B, N)."""

    x: Tensor
    labels: Tensor
    mask: Tensor | None


class RecurrentMemoryTransformerWrapper(nn.Module):
    """Runs sequences segment by segment: losses with full, truncated or replayed gradients, and generation.

    Args:
        transformer: the model.
        truncate_at_step: the most segments that a gradient goes through; None = all.
    """

    def __init__(self, transformer: RecurrentMemoryTransformer, truncate_at_step: int | None = None) -> None:
        super().__init__()
        check_depth(truncate_at_step)
        self.transformer = transformer
        self.truncate_at_step = truncate_at_step

    def forward(
        self,
        x: Tensor,
        memories: Memories | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        xl_memories: Sequence[Tensor] | None = None,
        return_loss: bool = False,
        truncate_at_step: int | None = None,
        memory_replay_backprop: bool = False,
        mrbp_loss_weight: float = 1.0,
        return_embeddings: bool = False,
        return_state: bool = False,
    ) -> Output | Tensor:
        """Run a sequence in segments of `seq_len` tokens.

        Args:
            x: ids, int64 (B, N), or embeddings, floats (B, N, D).
            memories: the memories that a call before returned; None begins anew.
            mask: bool (B, N), True for real tokens, see `RecurrentMemoryTransformer.forward`. Masked tokens count when
                segments are cut, so pad sequences of different lengths at their ends.
            xl_memories: the XL memories that a call before returned.
            labels: int64 (B, N), the id to predict at each place; the loss is returned. By default it's the next
                token's id, and the last token of x is only a label: begin the next call with that token.
            return_loss: return the loss, the mean over labels that count.
            truncate_at_step: as in the class, for this call; blocks of segments are counted from the end.
            memory_replay_backprop: backpropagate in this call, in the memory of one segment (Memformer, arXiv
                2010.06891), and return the loss without a graph. Gradients, full or truncated, are the same.
            mrbp_loss_weight: the factor of the loss that is replayed and returned.
            return_embeddings: return (B, N, D), the head's inputs, in place of logits.
            return_state: return memories with a loss too, detached from the graph.

        Returns:
            `Output` with logits (B, N, V), embeddings, or with `return_state` the loss; otherwise the loss alone.

        Raises:
            UsageError: arguments don't fit, labels are needed, or gradients are off and replay is asked for.
        """
        model = self.transformer
        model.check_tokens(x)
        state = model.state(len(x), memories, xl_memories)
        depth = self._depth(truncate_at_step)
        if memory_replay_backprop and not torch.is_grad_enabled():
            raise UsageError("memory_replay_backprop=True backpropagates, but gradients are off: give return_loss=True")
        if mask is not None:
            check_mask(mask, x)
        wants_loss = return_loss or memory_replay_backprop or labels is not None
        if not wants_loss:
            return self._outputs(x, mask, state, depth, return_embeddings)
        data = self._labelled(x, labels, mask)
        if memory_replay_backprop:
            loss, state = self._replay(data, state, depth, mrbp_loss_weight)
        else:
            loss, state = self._loss(data, state, depth)
        return model.output(loss, state) if return_state else loss

    def _depth(self, truncate_at_step: int | None) -> int | None:
        check_depth(truncate_at_step)
        return self.truncate_at_step if truncate_at_step is None else truncate_at_step

    def _outputs(self, x: Tensor, mask: Tensor | None, state: Tree, depth: int | None, embeddings: bool) -> Output:
        """Return the logits or embeddings of all segments."""
        model = self.transformer
        outputs = []
        parts, masks = _segments(x, mask, model.seq_len)
        count = len(parts)
        for start, stop in backprop.blocks(count, depth or count):
            state = detach(state) if start else state
            for index in range(start, stop):
                y_BLD, state = model.run(parts[index], state, masks[index])
                outputs.append(y_BLD if embeddings else model.head(y_BLD))
        whole = torch.cat(outputs, 1)
        return model.output(whole, state)

    def _labelled(self, x: Tensor, labels: Tensor | None, mask: Tensor | None) -> Labelled:
        """Return the tokens with these labels, or with the next tokens as labels."""
        model = self.transformer
        if labels is not None:
            return Labelled(x, model.masked_labels(x, labels, mask), mask)
        if x.is_floating_point() or not model.causal or x.shape[1] < 2:
            raise UsageError(
                "labels are needed where they can't be the next tokens: of embeddings, of an encoder (causal=False), "
                "of a sequence of one token"
            )
        tokens = x[:, :-1]
        following = x[:, 1:]
        if mask is None:
            return Labelled(tokens, following, None)
        mask_of_tokens = mask[:, :-1]
        both_real = mask[:, 1:] & mask_of_tokens  # nothing is predicted from a masked token, nor is one predicted
        following = model.masked_labels(tokens, following, both_real)
        return Labelled(tokens, following, mask_of_tokens)

    def _loss(self, data: Labelled, state: Tree, depth: int | None) -> tuple[Tensor, Tree]:
        """Return the loss with its graph, and the next state."""
        step, segments = self._step(data, weight=1.0)
        losses: list[Tensor] = []
        _, state = backprop.truncated(step, segments, state, losses.append, depth or segments)
        loss = torch.stack(losses).sum()
        return loss, state

    def _replay(self, data: Labelled, state: Tree, depth: int | None, weight: float) -> tuple[Tensor, Tree]:
        """Backpropagate by replay, as far as the graphs that made x and the state; return the loss and next state."""
        given = data.x, state
        cut = tree_map(_cut, given)
        x, state = cut
        step, segments = self._step(data._replace(x=x), weight)
        loss, state = backprop.replay(step, segments, state, Tensor.backward, depth)
        _backward(given, cut)
        return loss, state

    def _step(self, data: Labelled, weight: float) -> tuple[backprop.Step[Tree], int]:
        """Return a function for `rmt_rl.backprop`, each segment's share of the mean loss x weight; and how many."""
        model = self.transformer
        parts, masks = _segments(data.x, data.mask, model.seq_len)
        labels = data.labels.split(model.seq_len, 1)
        counted = model.counted(data.labels)

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            y_BLD, state = model.run(parts[index], state, masks[index])
            loss = model.loss(y_BLD, labels[index])
            return loss * weight / counted, state

        return step, len(parts)

    @overload
    def generate(
        self, prime: Tensor, *, length: int, return_state: Literal[False] = False, **options: Unpack[GenerationOptions]
    ) -> Tensor: ...

    @overload
    def generate(
        self, prime: Tensor, *, length: int, return_state: Literal[True], **options: Unpack[GenerationOptions]
    ) -> Output: ...

    @torch.no_grad()
    def generate(
        self,
        prime: Tensor,
        *,
        length: int,
        mask: Tensor | None = None,
        memories: Memories | None = None,
        xl_memories: Sequence[Tensor] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        return_state: bool = False,
    ) -> Output | Tensor:
        """Go on with sequences, a token at a time, each from its segment's cached keys and values.

        Args:
            prime: ids, int64 (B, N >= 1), to go on from, or embeddings, floats (B, N, D).
            length: tokens of the whole, those of `prime` included, real or not: each prompt gets `length - N` new ones.
            mask: bool (B, N), True for real tokens, which may stand anywhere: so pad shorter prompts before or behind.
                Other tokens change nothing, whatever their values. Each prompt goes on as if it were alone, and its
                segments are counted from its own first token. Each needs a real token.
            memories: the memories before `prime`.
            xl_memories: the XL memories before `prime`.
            temperature: divides logits; 0 takes the likeliest token.
            top_k: draw only from so many of the likeliest tokens; None = all.
            generator: of the random numbers. They are drawn for the batch as a whole, so the tokens drawn for a prompt
                depend on its place among others, but for temperature 0.
            return_state: also return the memories of all tokens but the last. Pass the last token first in the next
                call. Splitting a generation gives the same tokens as one call only at segment boundaries.

        Returns:
            The new tokens, int64 (B, length - N); with `return_state`, `Output` with them.

        Raises:
            UsageError: the model is an encoder, `length` is below N, `top_k` below 1, or `temperature` below 0; the
                mask doesn't fit, or leaves a prompt without a real token.
        """
        return generate(
            self.transformer,
            prime,
            length,
            mask=mask,
            memories=memories,
            xl_memories=xl_memories,
            temperature=temperature,
            top_k=top_k,
            generator=generator,
            return_state=return_state,
        )


def _segments(x: Tensor, mask: Tensor | None, length: int) -> tuple[Segments, Masks]:
    """Return the segments of x, and the mask of each."""
    parts = x.split(length, 1)
    if mask is None:
        return parts, [None] * len(parts)
    return parts, mask.split(length, 1)


def _cut(leaf: Tensor) -> Tensor:
    """Return a leaf detached from its graph, which takes a gradient if the leaf does."""
    return leaf.detach().requires_grad_(leaf.requires_grad)


def _backward(given: Tree, cut: Tree) -> None:
    """Backpropagate through the graphs that made a tree, from the gradients of its copies by `_cut`."""
    leaves = []
    gradients = []
    for leaf, copy in zip(tree_leaves(given), tree_leaves(cut), strict=True):
        if copy.grad is not None:
            leaves.append(leaf)
            gradients.append(copy.grad)
    if leaves:  # all at once, since one graph may have made tokens and memories
        torch.autograd.backward(leaves, gradients)
