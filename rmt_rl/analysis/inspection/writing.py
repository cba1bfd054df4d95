"""Writing: the change of the state by each segment, and the steps that the new state depends on.

Everything but attention goes through the interface of `SegmentRecurrent`, so that it serves any mechanism.

Dimensions: B batch elements, K steps of a segment, L its tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from rmt_rl.agent import Agent
from rmt_rl.analysis.inspection.attention import Attention, attention_shares, recorded_attention
from rmt_rl.analysis.inspection.states import TINY, distance, named_leaves, root_mean_square, with_all
from rmt_rl.data.segment import Segment
from rmt_rl.recurrence import Tree, detach, tree_leaves

PROBES = 4  # random directions of the state that influence is estimated by, for each batch element
Arguments: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Written:
    """The effect of one segment on the state; means over the episodes that have steps in it."""

    segment: int  # counted from 1
    lanes: int  # number of these episodes
    change: dict[str, float]  # of the whole and by leaf, see `distance`
    influence: tuple[float, ...]  # of each step, see `influence`; shares that sum to 1, or zeros
    attention: tuple[Attention, ...]  # by layer; none of a core without write tokens


def writing(agent: Agent, segments: Sequence[Segment], seed: int = 0) -> Iterator[Written]:
    """Yield the effect of each segment on the state.

    Args:
        agent: in evaluation mode.
        segments: one after the other, from the first step of episodes.
        seed: of the random directions that influence is estimated by.
    """
    generator = torch.Generator(agent.device).manual_seed(seed)
    batch_size = len(segments[0].lengths)
    state = detach(agent.initial_state(batch_size))
    for number, segment in enumerate(segments, start=1):
        segment = segment.to(agent.device)
        # cuDNN's recurrent nets have no gradient outside of training.
        without_cudnn = torch.backends.cudnn.flags(enabled=False)
        with _recorded_tokens(agent.core) as tokens, recorded_attention(agent.core) as layers, without_cudnn:
            _, following = agent(segment, state)
        alive_B = segment.lengths > 0
        per_step = len(agent.tokens)
        influence_BK = influence(following, tokens[0], per_step, generator)
        attention = []
        for layer, inputs in enumerate(layers, start=1):
            attention.append(attention_shares(inputs, layer, segment, per_step))
        yield Written(
            segment=number,
            lanes=int(alive_B.sum()),
            change=_change(state, following, alive_B),
            influence=_shares(influence_BK[alive_B]),
            attention=tuple(attention),
        )
        state = detach(following)


def _change(state: Tree, following: Tree, alive_B: Tensor) -> dict[str, float]:
    before, after = with_all(named_leaves(state), named_leaves(following))
    changes = {}
    for name, leaf in after.items():
        distance_B = distance(before[name], leaf)
        changes[name] = float(distance_B[alive_B].mean())
    return changes


def _shares(influence_BK: Tensor) -> tuple[float, ...]:
    sum_B1 = influence_BK.sum(1, keepdim=True)
    share_BK = influence_BK / sum_B1.clamp(min=TINY)
    return tuple(share_BK.mean(0).tolist())


def influence(state: Tree, tokens_BLD: Tensor, per_step: int, generator: torch.Generator) -> Tensor:
    """Return the dependence of the state on each step, (B, K): the Frobenius norm of its Jacobian by the step's tokens.

    The Jacobian is that of the whole state, in which each leaf is divided by its norm; leaves that are zero don't
    count. Estimated by E |v J|^2 = |J|^2 for standard normal v. (The gradient of the state's own norm says nothing
    where it was normed.)
    """
    leaves = []
    norms = []
    for leaf in tree_leaves(state):
        if leaf.requires_grad and leaf.any():
            leaves.append(leaf)
            norms.append(root_mean_square(leaf.detach()))
    batch_size, tokens, _ = tokens_BLD.shape
    total_BK = tokens_BLD.new_zeros(batch_size, tokens // per_step)
    for _ in range(PROBES if leaves else 0):
        probes = _probes(leaves, norms, generator)
        (gradient_BLD,) = torch.autograd.grad(
            leaves,
            tokens_BLD,
            probes,
            retain_graph=True,
            allow_unused=True,
        )
        if gradient_BLD is not None:
            squares_BL = gradient_BLD.square().sum(2)
            squares_BK = squares_BL.unflatten(1, (-1, per_step)).sum(2)
            total_BK = total_BK + squares_BK
    return (total_BK / PROBES).sqrt()


def _probes(
    leaves: Sequence[Tensor],
    norms: Sequence[Tensor],
    generator: torch.Generator,
) -> list[Tensor]:
    """Return a random direction of each leaf over its norm."""
    probes = []
    for leaf, norm in zip(leaves, norms, strict=True):
        direction = torch.randn(leaf.shape, generator=generator, device=leaf.device)
        probe = direction / norm
        probes.append(probe.to(leaf.dtype))
    return probes


@contextmanager
def _recorded_tokens(core: nn.Module) -> Iterator[list[Tensor]]:
    """Record the tokens (B, L, D) that the core is given, as leaves of its graph."""
    recorded: list[Tensor] = []

    def record(module: nn.Module, arguments: Arguments) -> Arguments:
        tokens_BLD, *others = arguments
        leaf_BLD = tokens_BLD.detach().requires_grad_()
        recorded.append(leaf_BLD)
        return (leaf_BLD, *others)

    handle = core.register_forward_pre_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()
