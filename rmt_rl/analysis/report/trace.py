"""Memory over one episode: when it is written, from what, and how far it is from a memory of another cue.

The episode's observations and actions are given to the agent a segment at a time, as in training. In copies of it the
first segment is that of other episodes. So their memories hold what those had to remember, and pass through the same
further segments.

Dimensions: B sequences, of which the first is the episode; K steps of a segment; P logits.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rmt_rl.agent import Agent
from rmt_rl.analysis.inspection.cues import demand_of
from rmt_rl.analysis.inspection.states import distance, named_leaves, with_all
from rmt_rl.analysis.inspection.writing import Written, writing
from rmt_rl.analysis.report.played import PlayedEpisode, PlayedEpisodes
from rmt_rl.data.segment import Segment, Span, collate, cut
from rmt_rl.data.trajectory import Trajectory

MOST_COPIES = 4  # of each kind


@dataclass(frozen=True)
class SegmentTrace:
    """One segment of the episode.

    Attributes:
        start: the first step, counted from 0.
        stop: the step behind the last.
        change: change of the state by the segment, see `distance`; None of agents without memory.
        influence: the share of each step in the written state; zeros if nothing is written.
        attention: the attention of what is written to each step; empty without write tokens.
        same: distance from the memories of episodes with the same cue after the segment; None if there are none.
        other: distance from the memories of episodes with another cue.
    """

    start: int
    stop: int
    change: float | None
    influence: Sequence[float]
    attention: Sequence[float]
    same: float | None
    other: float | None


@dataclass(frozen=True)
class Trace:
    """Memory and actions over one episode.

    Attributes:
        segments: in order.
        logits: of the actions, (T, P).
        other_logits: the same with memories of another cue, (C, T, P); None if there are none.
        compared: words for what tells cues apart, or for why there is nothing to compare with.
    """

    segments: Sequence[SegmentTrace]
    logits: Tensor
    other_logits: Tensor | None
    compared: str


class Copies(NamedTuple):
    """Episodes whose first segment takes the place of the shown episode's."""

    same: Sequence[Trajectory]
    other: Sequence[Trajectory]
    words: str


def choose_episode(episodes: PlayedEpisodes, segment_length: int) -> int:
    """Return the index of the episode to show: the first that is longer than a segment, else the longest."""
    longer = np.flatnonzero(episodes.lengths > segment_length)
    return int(longer[0]) if len(longer) else int(episodes.lengths.argmax())


def trace(agent: Agent, episodes: PlayedEpisodes, shown: int, steps: int) -> Trace:
    """Return memory and actions over the first steps of an episode.

    Args:
        agent: in evaluation mode.
        episodes: the played episodes.
        shown: index of the episode.
        steps: at most.
    """
    length: int = agent.config.segment_length
    trajectory = episodes.episodes[shown].trajectory
    stop = min(len(trajectory), steps)
    written = list(writing(agent, cut([Span(trajectory, 0, stop)], length)))
    copies = find_copies(episodes, shown, length)
    logits: list[Tensor] = []
    traced = []
    for (start, end, passed), own in zip(_passed(agent, trajectory, copies, stop), written, strict=True):
        logits.append(passed.logits)
        same, other = _distances(passed.state, copies)
        traced.append(_segment_trace(start, end, own, same, other))
    logits_BTP = torch.cat(logits, 1)
    first_other = 1 + len(copies.same)
    return Trace(
        segments=traced,
        logits=logits_BTP[0],
        other_logits=logits_BTP[first_other:] if copies.other else None,
        compared=copies.words,
    )


def find_copies(episodes: PlayedEpisodes, shown: int, length: int) -> Copies:
    """Return the episodes to compare with, by what their first decisive step behind the first segment demands."""
    own = episodes.episodes[shown]
    reason = _nothing_to_compare(own, length)
    if reason:
        return Copies((), (), reason)
    wanted = demand_of(episodes, shown, length).content
    same: list[Trajectory] = []
    other: list[Trajectory] = []
    for index, episode in enumerate(episodes.episodes):
        if index == shown or _nothing_to_compare(episode, length):
            continue
        content: Hashable = demand_of(episodes, index, length).content
        kind = same if content == wanted else other
        kind.append(episode.trajectory)
    if not other:
        return Copies((), (), f"the {len(same)} other episodes that can be compared all have the same cue")
    return Copies(same[:MOST_COPIES], other[:MOST_COPIES], _words(own.trajectory))


def _nothing_to_compare(episode: PlayedEpisode, length: int) -> str:
    """Return the reason for which an episode's memory can't be compared; an empty text if it can."""
    trajectory = episode.trajectory
    if trajectory.decisive is None and trajectory.hindsight is None:
        return "the environment declares no steps whose action depends on the memory"
    if len(trajectory) <= length:
        return f"the episode is not longer than a segment ({length} steps), so no memory is read"
    if episode.success is False:
        return "the episode failed, so its last actions don't tell the cue"
    return ""


def _words(trajectory: Trajectory) -> str:
    return "hindsight class" if trajectory.hindsight is not None else "decisive action"


class _Passed(NamedTuple):
    """The outputs of one segment."""

    logits: Tensor  # (B, K, P)
    state: Any


def _passed(agent: Agent, trajectory: Trajectory, copies: Copies, stop: int) -> Iterator[tuple[int, int, _Passed]]:
    """Yield the first step, the step behind the last and the outputs of each segment of the episode and its copies."""
    length: int = agent.config.segment_length
    begun = min(length, stop)
    rows = [trajectory, *copies.same, *copies.other]
    segments: list[Segment] = [collate([Span(row, 0, begun) for row in rows])]
    if stop > begun:
        segments += cut([Span(trajectory, begun, stop)] * len(rows), length)
    state = agent.initial_state(len(rows))
    start = 0
    for segment in segments:
        with torch.no_grad():
            logits_BKP, state = agent(segment.to(agent.device), state)
        end = start + logits_BKP.shape[1]
        yield start, end, _Passed(logits_BKP.cpu(), state)
        start = end


def _distances(state: Any, copies: Copies) -> tuple[float | None, float | None]:
    """Return the mean distance of the first memory from those of the same cue, and from those of another."""
    leaves = named_leaves(state)
    if not leaves:
        return None, None
    whole_BF, *_ = with_all(leaves)[0].values()
    own_BF = whole_BF[:1].expand_as(whole_BF)
    distance_B = distance(own_BF, whole_BF)[1:].cpu()
    border = len(copies.same)
    same_B, other_B = distance_B[:border], distance_B[border:]
    return _mean(same_B), _mean(other_B)


def _mean(distance_B: Tensor) -> float | None:
    return float(distance_B.mean()) if len(distance_B) else None


def _segment_trace(start: int, stop: int, own: Written, same: float | None, other: float | None) -> SegmentTrace:
    layers = [layer.steps for layer in own.attention]
    attention = np.mean(layers, 0).tolist() if layers else []
    change = next(iter(own.change.values()), None)  # of the whole state
    return SegmentTrace(
        start=start,
        stop=stop,
        change=change,
        influence=own.influence,
        attention=attention,
        same=same,
        other=other,
    )
