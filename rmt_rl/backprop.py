"""Backpropagation through segments: full, truncated, or replayed with the activations of one segment.

The gradient depth of a run is chosen here, never in a model. The step to differentiate is any function

    step(index, state) -> (loss, next_state)

that runs segment `index`. The loss is a scalar that already includes the segment's weight in the sum over segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rmt_rl.recurrence import Tree, TreeT, clone, detach, tree_fill, tree_leaves, tree_map

Step = Callable[[int, TreeT], tuple[Tensor, TreeT]]
Backward = Callable[[Tensor], None]
Gradient = Literal["full", "truncated", "replay"]


def full(step: Step[TreeT], segments: int, state: TreeT, backward: Backward) -> tuple[Tensor, TreeT]:
    """Backpropagate through time over all segments, holding the activations of all of them.

    Args:
        step: returns one segment's loss and next state.
        segments: the number of segments to run.
        state: the state before the first segment. Its own graph (a learned initial memory) gets its gradient too.
        backward: differentiates a scalar, e.g. `Tensor.backward`.

    Returns:
        The sum of the losses and the last state, both detached.
    """
    return truncated(step, segments, state, backward, depth=segments)


def truncated(
    step: Step[TreeT], segments: int, state: TreeT, backward: Backward, depth: int = 1
) -> tuple[Tensor, TreeT]:
    """Backpropagate within blocks of `depth` segments, counted from the last segment. No gradient leaves its block.

    The last segment's loss thus reaches exactly `depth` segments. Arguments and result are those of `full`.
    """
    total = _zero(state)
    for start, stop in blocks(segments, depth):
        state, losses = detach(state) if start else state, []
        for index in range(start, stop):
            loss, state = step(index, state)
            losses.append(loss)
        block = torch.stack(losses).sum()
        backward(block)
        total = total + block.detach()
    return total, detach(state)


def replay(
    step: Step[TreeT], segments: int, state: TreeT, backward: Backward, depth: int | None = None
) -> tuple[Tensor, TreeT]:
    """Compute the gradient of `full` in the memory of one segment.

    This is memory replay (Memformer, arXiv 2010.06891, algorithm 1). With a `depth`, it computes the gradient of
    `truncated`, block by block.

    A first pass without graph keeps the state before each segment. A second pass goes back from the last segment. It
    reruns each segment from its kept state with the random numbers of its first run (dropout replays exactly, on CPU
    and CUDA), and carries dL/dstate to the segment before. Arguments and result are those of `full`.
    """
    total = _zero(state)
    for start, stop in blocks(segments, depth or segments):
        loss, state = _replayed(step, start, stop, state, backward)
        total = total + loss
    return total, state


def _replayed(step: Step[TreeT], start: int, stop: int, state: TreeT, backward: Backward) -> tuple[Tensor, TreeT]:
    """Run one block of `replay`: the segments from `start` to `stop` - 1."""
    initial, state = state, detach(state)
    states, generators = [], []
    with torch.no_grad():
        for index in range(start, stop - 1):
            states.append(clone(state))  # a view would keep the whole segment's outputs in memory
            generators.append(_random_state())
            state = step(index, state)[1]
    total, last, gradients = _segment(step, stop - 1, state, None, backward)
    after = _random_state()
    for index in reversed(range(start, stop - 1)):
        _restore(generators.pop())
        loss, _, gradients = _segment(step, index, states.pop(), gradients, backward)
        total = total + loss
    _restore(after)
    if (learned := _dot(initial, gradients)).requires_grad:
        backward(learned)
    return total, last


def _segment(
    step: Step[TreeT], index: int, state: TreeT, gradients: list[Tensor | None] | None, backward: Backward
) -> tuple[Tensor, TreeT, list[Tensor | None]]:
    """Run one segment with graph and backpropagate its loss plus <next state, gradients>.

    Return the loss, the next state (both detached) and the gradients with respect to `state`.
    """
    inputs = tree_map(lambda leaf: leaf.detach().requires_grad_(leaf.is_floating_point()), state)
    loss, following = step(index, inputs)
    backward(loss if gradients is None else loss + _dot(following, gradients))
    return loss.detach(), detach(following), [leaf.grad for leaf in tree_leaves(inputs)]


def _dot(state: Tree, gradients: list[Tensor | None]) -> Tensor:
    """Return <state, gradients>, a scalar whose derivative by the state is `gradients`."""
    pairs = zip(tree_leaves(state), gradients, strict=True)
    terms = [(leaf * gradient).sum() for leaf, gradient in pairs if gradient is not None and leaf.requires_grad]
    return torch.stack(terms).sum() if terms else _zero(state)


def blocks(segments: int, depth: int) -> list[tuple[int, int]]:
    """Return the first segment and the end (exclusive) of each block that no gradient leaves.

    Blocks have `depth` segments each, counted from the last segment; the first block may be shorter.
    """
    starts = list(range(segments - depth, 0, -depth))[::-1]
    return list(zip([0, *starts], [*starts, segments], strict=True))


def _zero(state: Tree) -> Tensor:
    leaves = tree_leaves(state)
    return torch.zeros((), device=leaves[0].device if leaves else None)


def _random_state() -> list[Tensor]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *devices]


def _restore(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def straight_through(state: TreeT, value: TreeT) -> TreeT:
    """Return `value` with the gradient of `state`.

    Memory ageing (carrying a written memory through further segments before it is read) puts it in the memory's place.
    """
    leaves = [
        new.detach() if not old.is_floating_point() else new.detach() + (old - old.detach())
        for old, new in zip(tree_leaves(state), tree_leaves(value), strict=True)
    ]
    return tree_fill(value, leaves)
