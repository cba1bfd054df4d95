"""Cues: episodes whose first segment shows what has to be remembered, and questions about it.

Dimensions: B batch elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from rmt_rl.analysis.inspection.retention import Question
from rmt_rl.data.feed import Episodes
from rmt_rl.data.segment import Segment, collate
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError

QUESTIONS = 8  # asked of each memory
DRAWN = 8  # episodes for each one that is chosen


class Cues(NamedTuple):
    """Contents that memories have to hold."""

    first: Segment  # (B elements) episodes' first segments
    groups: torch.Tensor  # int64 (B,), equal where the same has to be remembered
    questions: tuple[Question, ...]
    grouped_by: str | None  # None, and no questions, where all episodes are one group


class Demand(NamedTuple):
    """The step of an episode whose action depends on the memory, and the content that it demands, None if unknown."""

    episode: int
    at: int
    content: Hashable


def read_cues(
    store: Episodes,
    length: int,
    lanes: int,
    random: np.random.Generator,
) -> Cues:
    """Draw `lanes` episodes of more than `length` steps, as many of one kind as of another; ask how they go on.

    Raises:
        UsageError: there are none.
    """
    is_longer = store.lengths > length
    longer = random.permutation(np.flatnonzero(is_longer))
    if not len(longer):
        raise UsageError(
            f"segment_length={length}, but no episode of its data has more steps, so there is nothing to "
            "carry along; choose a run of shorter segments"
        )
    drawn = longer[: DRAWN * lanes].tolist()
    demands = [demand_of(store, index, length) for index in drawn]
    demands = _alternating(demands)[:lanes]
    group_of: dict[Hashable, int] = {}
    groups = []
    spans = []
    for episode, _, content in demands:
        group = group_of.setdefault(content, len(group_of))
        groups.append(group)
        spans.append(store.span(episode, 0, length))
    first = collate(spans)
    groups_B = torch.tensor(groups)
    if len(group_of) < 2:
        return Cues(first, groups_B, (), None)
    questions = []
    for demand, group in zip(demands[:QUESTIONS], groups, strict=False):
        questions.append(_question(store, demand, length, group))
    return Cues(first, groups_B, tuple(questions), _kind_of_content(store))


def _kind_of_content(store: Episodes) -> str:
    """Name `Demand.content` of these data."""
    trajectory = store.span(0, 0, 1).trajectory
    if trajectory.hindsight is not None:
        return "hindsight class"
    return "last action" if trajectory.decisive is None else "decisive action"


def demand_of(store: Episodes, index: int, length: int) -> Demand:
    """Return the first decisive step behind the first segment; where the task declares none, the last step.

    The content is the step's hindsight class where the task declares it, else its action, if discrete.
    """
    last = int(store.lengths[index]) - 1
    trajectory, start, _ = store.span(index, last, last + 1)
    at = _first_decisive(trajectory, length, last)
    place = at + start - last  # in a trajectory that may hold the last step alone
    if trajectory.hindsight is not None:
        kind = int(trajectory.hindsight[place])
        return Demand(index, at, kind)
    actions = trajectory.actions
    if isinstance(actions, np.ndarray) and actions.dtype.kind in "iu":
        action = np.ravel(actions[place])
        return Demand(index, at, tuple(action.tolist()))
    return Demand(index, at, None)


def _first_decisive(trajectory: Trajectory, length: int, otherwise: int) -> int:
    """Return the first decisive step from `length` on, or another if there is none."""
    if trajectory.decisive is None:
        return otherwise
    for step in np.flatnonzero(trajectory.decisive).tolist():
        if step >= length:
            return int(step)
    return otherwise


def _alternating(demands: Sequence[Demand]) -> list[Demand]:
    """Return the first of each content, then the second of each, and so on."""
    seen: Counter[Hashable] = Counter()
    rounds: list[list[Demand]] = [[] for _ in demands]
    for demand in demands:
        earlier = seen[demand.content]
        rounds[earlier].append(demand)
        seen[demand.content] += 1
    return list(chain.from_iterable(rounds))


def _question(store: Episodes, demand: Demand, length: int, group: int) -> Question:
    """Return the steps up to the decisive one, as many as a segment holds, none of the first segment."""
    stop = demand.at + 1
    start = max(length, stop - length)
    span = store.span(demand.episode, start, stop)
    segment = collate([span])
    return Question(segment, demand.at - start, group)
