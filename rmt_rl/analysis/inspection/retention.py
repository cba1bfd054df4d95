"""Retention: the distance of states over many filler segments, and the actions that still follow from them.

Dimensions: B batch elements, K steps of a segment, P numbers of the agent's heads, F numbers of a leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rmt_rl.agent import Agent
from rmt_rl.analysis.inspection.states import named_leaves, with_all
from rmt_rl.data.segment import Segment


@dataclass(frozen=True)
class Retained:
    """Distances between the states of several memories after so many filler segments, the same ones for all.

    Memories are grouped by what they have to remember. Of the whole and by leaf, root mean squares over memories of:
    the state's norm, the distance of the memory's group mean from the mean of all, and the memory's distance from its
    group's mean.
    """

    fillers: int
    norm: dict[str, float]
    between: dict[str, float]
    within: dict[str, float]
    margin: float | None  # nats, see `Question`; None without groups
    right: float | None  # share of the questions' own groups that give the right action

    def apart(self, leaf: str) -> tuple[float, float]:
        """Return a leaf's distances between and within groups over its norm; 0 where the norm is."""
        norm = self.norm[leaf] or 1.0
        between = self.between[leaf] / norm
        within = self.within[leaf] / norm
        return between, within


class Question(NamedTuple):
    """The end of an episode, as far as the step (`at`, counted in the segment) whose action depends on the memory.

    Every memory is asked: the action that the episode took should be likelier where the same had to be remembered. The
    margin is the difference of mean log-likelihoods, in nats, between the memories of the episode's group and all
    others.
    """

    segment: Segment
    at: int
    group: int


def retention(
    agent: Agent,
    first: Segment,
    groups_B: Tensor,
    questions: Sequence[Question],
    fillers: Iterable[Segment],
    at: Sequence[int],
) -> Iterator[Retained]:
    """Pass what each element's first segment wrote through the same filler segments; measure after `at` of them.

    Args:
        agent: in evaluation mode.
        first: (B elements) the segment that writes what has to be remembered.
        groups_B: int64 (B,), equal where the same has to be remembered.
        questions: of one element each, with the same numbers of groups; none where there's but one group.
        fillers: segments of one element, which all memories are given.
        at: ascending numbers of filler segments to measure after, 0 for none.
    """
    groups_B = groups_B.to(agent.device)
    count = len(groups_B)
    repeated_questions = []
    for question in questions:
        segment = _repeated(question.segment, agent, count)
        repeated_questions.append(question._replace(segment=segment))
    remaining = iter(fillers)
    passed = 0
    with torch.no_grad():
        state = agent.initial_state(count)
        _, state = agent(first.to(agent.device), state)
    for number in at:
        with torch.no_grad():
            for filler in islice(remaining, number - passed):
                segment = _repeated(filler, agent, count)
                _, state = agent(segment, state)
            passed = number
            answers = [_answer(agent, question, groups_B, state) for question in repeated_questions]
        yield _retained(number, state, groups_B, answers)


def _repeated(segment: Segment, agent: Agent, count: int) -> Segment:
    """Return a segment of one element as `count` equal elements, on the agent's device."""
    element_B = torch.zeros(count, dtype=torch.int64, device=agent.device)
    return segment.to(agent.device).select(element_B)


class _Answer(NamedTuple):
    margin: float  # nats
    right: float  # share of the question's own group that gives its action


def _answer(agent: Agent, question: Question, groups_B: Tensor, state: Any) -> _Answer:
    segment, at, group = question
    numbers_BKP, _ = agent(segment, state)
    losses_BK, correct_BK = agent.losses(numbers_BKP, segment)
    losses_B = losses_BK[:, at]
    correct_B = correct_BK[:, at]
    own_B = groups_B == group
    own_loss = losses_B[own_B].mean()
    other_loss = losses_B[~own_B].mean()
    right = correct_B[own_B].mean()
    return _Answer(float(other_loss - own_loss), float(right))


class _Spread(NamedTuple):
    """Root mean squares over memories."""

    norm: float
    between: float  # of group means from the mean of all
    within: float  # of memories from their group's mean


def _spread(leaf_BF: Tensor, groups_B: Tensor) -> _Spread:
    leaf_BF = leaf_BF.double()
    is_same_BB = groups_B[:, None] == groups_B
    same_BB = is_same_BB.double()
    size_B1 = same_BB.sum(1, keepdim=True)
    own_mean_BF = same_BB / size_B1 @ leaf_BF
    return _Spread(
        norm=_root_mean_square(leaf_BF),
        between=_root_mean_square(own_mean_BF - leaf_BF.mean(0)),
        within=_root_mean_square(leaf_BF - own_mean_BF),
    )


def _root_mean_square(leaf_BF: Tensor) -> float:
    squares_B = leaf_BF.square().sum(1)
    return float(squares_B.mean().sqrt())


def _retained(fillers: int, state: Any, groups_B: Tensor, answers: Sequence[_Answer]) -> Retained:
    (leaves,) = with_all(named_leaves(state))
    norm = {}
    between = {}
    within = {}
    for name, leaf in leaves.items():
        spread = _spread(leaf, groups_B)
        norm[name] = spread.norm
        between[name] = spread.between
        within[name] = spread.within
    margin, right = np.mean(answers, 0).tolist() if answers else (None, None)
    return Retained(
        fillers=fillers,
        norm=norm,
        between=between,
        within=within,
        margin=margin,
        right=right,
    )
