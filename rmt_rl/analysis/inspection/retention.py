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
        return self.between[leaf] / norm, self.within[leaf] / norm


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
    repeated_B = torch.zeros_like(groups_B)  # of a segment of one element, the element that all memories are given
    questions = [_for_all(question, agent, repeated_B) for question in questions]
    remaining = iter(fillers)
    passed = 0
    with torch.no_grad():
        _, state = agent(first.to(agent.device), agent.initial_state(len(groups_B)))
    for number in at:
        with torch.no_grad():
            for filler in islice(remaining, number - passed):
                _, state = agent(filler.to(agent.device).select(repeated_B), state)
            passed = number
            answers = [_answer(agent, question, groups_B, state) for question in questions]
        yield _retained(number, state, groups_B, answers)


def _for_all(question: Question, agent: Agent, repeated_B: Tensor) -> Question:
    segment = question.segment.to(agent.device)
    return question._replace(segment=segment.select(repeated_B))


class _Answer(NamedTuple):
    margin: float  # nats
    right: float  # share of the question's own group that gives its action


def _answer(agent: Agent, question: Question, groups_B: Tensor, state: Any) -> _Answer:
    numbers_BKP, _ = agent(question.segment, state)
    losses_BK, correct_BK = agent.losses(numbers_BKP, question.segment)
    losses_B, correct_B = losses_BK[:, question.at], correct_BK[:, question.at]
    own_B = groups_B == question.group
    margin = losses_B[~own_B].mean() - losses_B[own_B].mean()
    return _Answer(float(margin), float(correct_B[own_B].mean()))


class _Spread(NamedTuple):
    """Root mean squares over memories."""

    norm: float
    between: float  # of group means from the mean of all
    within: float  # of memories from their group's mean


def _spread(leaf_BF: Tensor, groups_B: Tensor) -> _Spread:
    leaf_BF = leaf_BF.double()
    same_BB = (groups_B[:, None] == groups_B).double()
    own_mean_BF = same_BB / same_BB.sum(1, keepdim=True) @ leaf_BF
    return _Spread(
        norm=_root_mean_square(leaf_BF),
        between=_root_mean_square(own_mean_BF - leaf_BF.mean(0)),
        within=_root_mean_square(leaf_BF - own_mean_BF),
    )


def _root_mean_square(leaf_BF: Tensor) -> float:
    return float(leaf_BF.square().sum(1).mean().sqrt())


def _retained(fillers: int, state: Any, groups_B: Tensor, answers: Sequence[_Answer]) -> Retained:
    (leaves,) = with_all(named_leaves(state))
    spreads = {name: _spread(leaf, groups_B) for name, leaf in leaves.items()}
    margin, right = np.mean(answers, 0).tolist() if answers else (None, None)
    return Retained(
        fillers=fillers,
        norm={name: spread.norm for name, spread in spreads.items()},
        between={name: spread.between for name, spread in spreads.items()},
        within={name: spread.within for name, spread in spreads.items()},
        margin=margin,
        right=right,
    )
