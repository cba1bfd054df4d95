"""What a memory holds and when it's written: change, influence, attention and retention, measured on segments.

Everything goes through the interface of `SegmentRecurrent`, so that it serves any mechanism. Only attention asks for
more, the attributes of `WriteTokens`.

A state is looked at leaf by leaf (its tensors of floats) and as a whole, `ALL`. In the whole each leaf is divided by
its own norm, so that all count the same: of a window of keys beside a matrix of small numbers, say, one would otherwise
see the window alone.

Dimensions: B lanes, K steps of a segment, L its tokens, D width, T tokens of a row, M write tokens, S keys, H heads,
E width of a head, P numbers of the agent's heads, F numbers of a state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from rmt_rl.agent import Agent
from rmt_rl.data.segment import Segment
from rmt_rl.nn.attention import sdpa
from rmt_rl.nn.decoder import Block
from rmt_rl.recurrence import Tree, detach, take_tokens, tree_leaves

ALL = "all"  # the state as a whole, in which each leaf counts the same; before the leaves
PROBES = 4  # random directions of the state that influence is estimated by, in each lane


@dataclass(frozen=True)
class Attention:
    """Where one layer's write tokens look: shares that sum to 1, the mean over tokens, heads and lanes."""

    layer: int
    cached: float  # at what the layer kept of earlier segments
    read: float  # at the memory's read tokens
    steps: tuple[float, ...]  # at each step of the segment
    write: float  # at the write tokens themselves


@dataclass(frozen=True)
class Written:
    """What one segment does to the state; means over the lanes that have steps in it."""

    segment: int  # counted from 1
    lanes: int
    change: dict[str, float]  # of the whole and by leaf, see `distance`
    influence: tuple[float, ...]  # of each step, see `influence`; shares that sum to 1, or zeros
    attention: tuple[Attention, ...]  # by layer; none of a core without write tokens


@dataclass(frozen=True)
class Retained:
    """How far apart the lanes' states are after so many fillers, the same ones for all.

    Lanes are grouped by what they have to remember. Of the whole and by leaf, root mean squares over lanes of: the
    state's norm, the distance of the lane's group mean from the mean of all, and the lane's distance from its group's
    mean.
    """

    fillers: int
    norm: dict[str, float]
    between: dict[str, float]
    within: dict[str, float]
    margin: float | None  # nats, see `Question`; None without groups
    right: float | None  # share of the questions' own groups that give the right action

    def apart(self, leaf: str) -> tuple[float, float]:
        """Of a leaf, the distances between and within groups over the norm; 0 where the norm is."""
        norm = self.norm[leaf] or 1.0
        return self.between[leaf] / norm, self.within[leaf] / norm


class Question(NamedTuple):
    """The end of an episode, as far as the step (`at`, counted in the segment) whose action depends on the memory.

    Asked of every lane: the action that its episode took should be likelier where the same had to be remembered. The
    margin is the difference of mean log-likelihoods, in nats, between the lanes of its own group and all others.
    """

    segment: Segment
    at: int
    group: Any


@runtime_checkable
class WriteTokens(Protocol):
    """A core whose `count` memory tokens stand in a row right behind a lane's real ones, to write; others may precede.

    Rows are [read tokens, real tokens, write tokens, padding], as in `rmt_rl.memory.tokens`.
    """

    count: int
    memory_MD: Tensor


# Writing


def writing(agent: Agent, segments: Sequence[Segment], seed: int = 0) -> Iterator[Written]:
    """What each of an episode's segments does to the state; their first step must be the episode's."""
    generator = torch.Generator(agent.device).manual_seed(seed)
    state = detach(agent.initial_state(len(segments[0].lengths)))
    for number, segment in enumerate(segments, 1):
        segment = segment.to(agent.device)
        # cuDNN's recurrent nets have no gradient outside of training.
        without_cudnn = torch.backends.cudnn.flags(enabled=False)
        with _caught_tokens(agent.core) as caught, _caught_attention(agent.core) as looks, without_cudnn:
            _, following = agent(segment, state)
        alive, tokens_BLD = segment.lengths > 0, caught[0]
        before, after = with_all(named_leaves(state), named_leaves(following))
        influence_BK = influence(following, tokens_BLD, len(agent.tokens), generator)
        share_BK = influence_BK / influence_BK.sum(1, keepdim=True).clamp(min=1e-30)
        yield Written(
            number,
            int(alive.sum()),
            {name: float(distance(before[name], leaf)[alive].mean()) for name, leaf in after.items()},
            tuple(share_BK[alive].mean(0).tolist()),
            tuple(_attention(look, layer, segment, len(agent.tokens)) for layer, look in enumerate(looks, 1)),
        )
        state = detach(following)


def named_leaves(state: Tree) -> dict[str, Tensor]:
    """The state's floats by their place in the tree, each (B, F).

    A place is made of fields' names (without dimensions) and of numbers, e.g. `inner.0.hidden`.
    """
    return {".".join(place) or "state": leaf.detach().flatten(1) for place, leaf in _places(state) if leaf.numel()}


def with_all(*states: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states' leaves; where they have several, `ALL` before them: all in one (B, F), each over its norm.

    This norm is the root mean square over lanes and states, so the states' differences keep their meaning.
    """
    if len(states[0]) < 2:
        return list(states)
    norms = {name: _norm(torch.cat([state[name] for state in states])) for name in states[0]}
    wholes = (torch.cat([leaf.float() / norms[name] for name, leaf in state.items()], 1) for state in states)
    return [{ALL: whole, **state} for whole, state in zip(wholes, states, strict=True)]


def _norm(leaf: Tensor) -> Tensor:
    """The root mean square over lanes of a leaf's norm, and not quite 0, so that it can divide."""
    return leaf.flatten(1).square().sum(1).mean().sqrt().clamp(min=1e-30)


def _places(tree: Tree, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield place, tree
        return
    fields = getattr(tree, "_fields", range(len(tree)))
    for field, part in zip(fields, tree, strict=True):
        yield from _places(part, (*place, re.sub(r"_[A-Z0-9]+$", "", str(field))))


def distance(one_BF: Tensor, other_BF: Tensor) -> Tensor:
    """|one - other| over the root mean square of both norms, (B,): 0 the same, sqrt(2) orthogonal, 2 opposite.

    For states of one norm it's the relative change |s' - s| / |s|; a state that was zero before counts as orthogonal.
    """
    norm_B = ((one_BF.square().sum(1) + other_BF.square().sum(1)) / 2).sqrt()
    return (one_BF - other_BF).square().sum(1).sqrt() / norm_B.clamp(min=1e-30)


def influence(state: Tree, tokens_BLD: Tensor, per_step: int, generator: torch.Generator) -> Tensor:
    """How much the state depends on each step, (B, K): the Frobenius norm of its Jacobian by the step's tokens.

    Of the whole state, in which each leaf is divided by its norm; leaves that are zero don't count. Estimated by
    E |v J|^2 = |J|^2 for standard normal v. (The gradient of the state's own norm says nothing where it was normed.)
    """
    leaves = [leaf for leaf in tree_leaves(state) if leaf.requires_grad and leaf.any()]
    norms = [_norm(leaf.detach()) for leaf in leaves]
    total_BK = tokens_BLD.new_zeros(len(tokens_BLD), tokens_BLD.shape[1] // per_step)
    for _ in range(PROBES if leaves else 0):
        probes = [
            (torch.randn(leaf.shape, generator=generator, device=leaf.device) / norm).to(leaf.dtype)
            for leaf, norm in zip(leaves, norms, strict=True)
        ]
        (gradient,) = torch.autograd.grad(leaves, tokens_BLD, probes, retain_graph=True, allow_unused=True)
        if gradient is not None:
            total_BK = total_BK + gradient.square().sum(2).unflatten(1, (-1, per_step)).sum(2)
    return (total_BK / PROBES).sqrt()


@contextmanager
def _caught_tokens(core: nn.Module) -> Iterator[list[Tensor]]:
    """The tokens (B, L, D) that the core is given, as leaves of its graph."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        caught.append(arguments[0].detach().requires_grad_())
        return (caught[-1], *arguments[1:])

    handle = core.register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


class _Look(NamedTuple):
    """What an attention layer of a core with M write tokens computed with."""

    writes: int
    q_BTHE: Tensor
    k_BSHE: Tensor
    mask_BTS: Tensor | None


@contextmanager
def _caught_attention(core: nn.Module) -> Iterator[list[_Look]]:
    """What each attention layer inside a core with write tokens computes with, in the order of layers.

    PyTorch's attention stands in for other backends meanwhile: flex has no gradient on a CPU.
    """
    writer = next((module for module in core.modules() if isinstance(module, WriteTokens)), None)
    inside = set(cast("nn.Module", writer).modules()) if writer else set()
    looks: list[_Look] = []

    def attend_in(block: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if block in inside:
            looks.append(_Look(cast("WriteTokens", writer).count, q.detach(), k.detach(), mask))
        return sdpa(q, k, v, mask)

    before = {block: block.attend for block in core.modules() if isinstance(block, Block)}
    try:
        for block in before:
            block.attend = partial(attend_in, block)
        yield looks
    finally:
        for block, attend in before.items():
            block.attend = attend


def _attention(look: _Look, layer: int, segment: Segment, per_step: int) -> Attention:
    """Where the write tokens look, in the lanes that have steps."""
    writes, q, k, mask = look
    steps = segment.returns_to_go.shape[1]
    cached, reads = k.shape[1] - q.shape[1], q.shape[1] - steps * per_step - writes
    places_BM = (reads + segment.lengths * per_step)[:, None] + torch.arange(writes, device=q.device)
    if mask is None:
        allowed_BMS = torch.arange(k.shape[1], device=q.device) <= places_BM[:, :, None]
    else:
        allowed_BMS = take_tokens(mask.expand(len(q), -1, -1), places_BM)
    scores_BHMS = torch.einsum("bmhe,bshe->bhms", take_tokens(q, places_BM), k) / math.sqrt(q.shape[-1])
    weights_BS = scores_BHMS.masked_fill(~allowed_BMS[:, None], -torch.inf).softmax(-1).mean((1, 2))
    old_B, own_BT = weights_BS[:, :cached].sum(1), weights_BS[:, cached:]
    read_B = own_BT[:, :reads].sum(1)
    steps_BK = own_BT[:, reads : reads + steps * per_step].unflatten(1, (-1, per_step)).sum(2) * segment.mask
    parts = torch.cat((old_B[:, None], read_B[:, None], steps_BK), 1)[segment.lengths > 0].mean(0).tolist()
    return Attention(layer, parts[0], parts[1], tuple(parts[2:]), 1 - sum(parts))


# Retention


def retention(
    agent: Agent,
    first: Segment,
    groups_B: Tensor,
    questions: Sequence[Question],
    fillers: Iterable[Segment],
    at: Sequence[int],
) -> Iterator[Retained]:
    """Carry what each lane's first segment wrote through the same fillers, and measure after `at` of them.

    Args:
        agent: in evaluation mode.
        first: (B lanes) the segment that writes what has to be remembered.
        groups_B: int64 (B,), equal where the same has to be remembered.
        questions: of one lane each, with the same numbers of groups; none where there's but one group.
        fillers: segments of one lane, which all lanes are given.
        at: ascending numbers of fillers to measure after, 0 for none.
    """
    groups_B, every = groups_B.to(agent.device), torch.zeros_like(groups_B, device=agent.device)
    questions = [each._replace(segment=each.segment.to(agent.device).select(every)) for each in questions]
    with torch.no_grad():
        _, state = agent(first.to(agent.device), agent.initial_state(len(groups_B)))
    remaining = iter(fillers)
    for passed, number in zip([0, *at], at, strict=False):
        with torch.no_grad():
            for filler in islice(remaining, number - passed):
                _, state = agent(filler.to(agent.device).select(every), state)
            (leaves,) = with_all(named_leaves(state))
            spreads = {name: _spread(leaf, groups_B) for name, leaf in leaves.items()}
            answers = [_answer(agent, each, groups_B, state) for each in questions]
        norm, between, within = ({name: spread[place] for name, spread in spreads.items()} for place in range(3))
        margin, right = np.mean(answers, 0).tolist() if answers else (None, None)
        yield Retained(number, norm, between, within, margin, right)


def _spread(leaf_BF: Tensor, groups_B: Tensor) -> tuple[float, float, float]:
    """Root mean squares over lanes: norm, distance of group means from the mean, of lanes from their group's mean."""
    leaf_BF = leaf_BF.double()
    same_BB = (groups_B[:, None] == groups_B).double()
    own_mean_BF = same_BB / same_BB.sum(1, keepdim=True) @ leaf_BF
    parts = leaf_BF, own_mean_BF - leaf_BF.mean(0), leaf_BF - own_mean_BF
    norm, between, within = (float(part.square().sum(1).mean().sqrt()) for part in parts)
    return norm, between, within


def _answer(agent: Agent, question: Question, groups_B: Tensor, state: Any) -> tuple[float, float]:
    """The margin, in nats, and the share of the question's own group that gives its action."""
    numbers_BKP, _ = agent(question.segment, state)
    losses_BK, correct_BK = agent.losses(numbers_BKP, question.segment)
    own_B, losses_B = groups_B == question.group, losses_BK[:, question.at]
    return float(losses_B[~own_B].mean() - losses_B[own_B].mean()), float(correct_BK[own_B, question.at].mean())
