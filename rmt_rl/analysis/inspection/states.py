"""States as vectors: their leaves (tensors of floats) by name, and distances between them.

In the whole state, `ALL`, each leaf is divided by its own norm, so that all leaves count the same. Otherwise a window
of keys, say, would hide a matrix of small numbers beside it.

Dimensions: B batch elements, F numbers of a leaf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rmt_rl.recurrence import Tree

ALL = "all"  # name of the whole state; before the leaves
TINY = 1e-30  # added to norms that divide
Place = tuple[str, ...]
Leaves = Mapping[str, Tensor]
"""A state's floats by their place in its tree, each (B, F)."""


def named_leaves(state: Tree) -> dict[str, Tensor]:
    """Return the floats of a state by their place in its tree, each (B, F).

    A place consists of field names (without dimensions) and numbers, e.g. `inner.0.hidden`.
    """
    leaves = {}
    for place, leaf in _places(state):
        if leaf.numel():
            name = ".".join(place) or "state"
            leaves[name] = leaf.detach().flatten(1)
    return leaves


def _places(tree: Tree, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield place, tree
        return
    numbers = range(len(tree))
    fields = getattr(tree, "_fields", numbers)
    for field, part in zip(fields, tree, strict=True):
        name = re.sub(r"_[A-Z0-9]+$", "", str(field))
        yield from _places(part, (*place, name))


def with_all(*states: Leaves) -> list[Leaves]:
    """Return the states with `ALL` before their leaves, if they have several: all leaves in one (B, F), each / norm.

    A leaf's norm is the root mean square over batch elements and all the states given, so that differences between
    these states keep their meaning.
    """
    names = list(states[0])
    if len(names) < 2:
        return list(states)
    norms = {}
    for name in names:
        leaves = [state[name] for state in states]
        norms[name] = root_mean_square(torch.cat(leaves))
    return [{ALL: _concatenated(state, norms), **state} for state in states]


def _concatenated(leaves: Leaves, norms: Mapping[str, Tensor]) -> Tensor:
    parts = []
    for name, leaf in leaves.items():
        parts.append(leaf.float() / norms[name])
    return torch.cat(parts, 1)


def root_mean_square(leaf: Tensor) -> Tensor:
    """Return the root mean square over batch elements of a leaf's norm, at least `TINY`, so that it can divide."""
    leaf_BF = leaf.flatten(1)
    norm = leaf_BF.square().sum(1).mean().sqrt()
    return norm.clamp(min=TINY)


def distance(one_BF: Tensor, other_BF: Tensor) -> Tensor:
    """Return |one - other| over the root mean square of both norms, (B,): 0 the same, sqrt(2) orthogonal, 2 opposite.

    For states of one norm it's the relative change |s' - s| / |s|; a state that was zero before counts as orthogonal.
    """
    one_B = one_BF.square().sum(1)
    other_B = other_BF.square().sum(1)
    mean_B = (one_B + other_B) / 2
    norm_B = mean_B.sqrt()
    difference_BF = one_BF - other_BF
    distance_B = difference_BF.square().sum(1).sqrt()
    return distance_B / norm_B.clamp(min=TINY)
