"""What a run's memory holds and when it's written, measured on the data that the run learnt from.

See `inspection_measures` for the measures, `inspection_report` for tables and the picture.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch

from rmt_rl.agent import Agent
from rmt_rl.analysis.inspection_measures import Question, Retained, Written, named_leaves, retention, writing
from rmt_rl.analysis.sizes import Sizes, sizes
from rmt_rl.data.feed import Episodes
from rmt_rl.data.fillers import Fillers
from rmt_rl.data.segment import Segment, Span, collate, cut
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
from rmt_rl.runs.options import OfflineRun, read_config
from rmt_rl.training.datasets import open_data

FORMAT, FILE = 1, "inspection.json"
MOST_SEGMENTS = 16  # that are looked at of an episode
QUESTIONS = 8  # asked of each lane
_BLOCK = 64  # fillers drawn at once


@dataclass(frozen=True)
class Inspection:
    """All that was found."""

    env: str
    agent: str
    checkpoint: str
    seed: int
    sizes: Sizes
    grouped_by: str | None  # what tells the lanes of `retained` apart; None where nothing does
    written: tuple[Written, ...]  # by segment of an episode
    retained: tuple[Retained, ...]  # by number of fillers


def inspect(
    run: Path,
    checkpoint: str = "last",
    *,
    segments: int = 10_000,
    episodes: int = 64,
    lanes: int = 8,
    seed: int = 0,
    device: str = "cpu",
    watched: Callable[[Iterator[Segment]], Iterable[Segment]] = iter,
) -> Inspection:
    """Measure the memory of a run; data that it had collected by itself and that are gone are collected anew.

    Args:
        run: its folder.
        checkpoint: `last` or `best`.
        segments: fillers that memories are carried through.
        episodes: how many are looked at segment by segment.
        lanes: how many memories are carried through the fillers, the same ones for all.
        seed: of the choice of episodes and fillers.
        device: where the agent runs.
        watched: passes the fillers on, and may show how far they are.

    Raises:
        UsageError: the run learnt by acting or has no memory, its data can't be had, or they have no episode that is
            longer than a segment or no filler.
    """
    config = read_config(run)
    if not isinstance(config, OfflineRun):
        raise UsageError(
            f"run {run} is of agent {config.agent!r}, which learns by acting and has no segments to inspect; choose a "
            "run that learnt from data"
        )
    saved = read_checkpoint(path_of(run, checkpoint))
    agent = cast("Agent", restore_agent(saved, device))
    if not named_leaves(agent.initial_state(1)):
        raise UsageError(
            f"run {run} is of agent {config.agent!r}, which carries nothing from segment to segment; choose a run of "
            "one with a memory"
        )
    store, length = open_data(config), config.agent_options.segment_length
    random = np.random.default_rng(seed)
    cues = read_cues(store, length, lanes, random)
    source = Fillers(store, length, seed)
    source.draw(0, count=1, batch_size=1)  # fails now, and not after all the rest
    written = tuple(writing(agent, cut(_whole_segments(store, length, episodes, random), length), seed))
    fillers = watched(islice(_fillers(source), segments))
    retained = tuple(retention(agent, cues.first, cues.groups, cues.questions, fillers, milestones(segments)))
    name = f"{checkpoint}, update {saved.header.update}"
    return Inspection(config.env, config.agent, name, seed, sizes(agent), cues.grouped_by, written, retained)


def milestones(segments: int) -> list[int]:
    """0, and four numbers a decade from 1 to `segments`, ascending."""
    spaced = np.geomspace(1, segments, round(4 * math.log10(segments)) + 1)
    return sorted({0, segments, *spaced.round().astype(int).tolist()})


def _whole_segments(store: Episodes, length: int, episodes: int, random: np.random.Generator) -> list[Span]:
    """Episodes without their last, shorter segment: what it writes is never read."""
    chosen = random.permutation(np.flatnonzero(store.lengths >= length))[:episodes].tolist()
    return [store.span(index, 0, length * min(int(store.lengths[index]) // length, MOST_SEGMENTS)) for index in chosen]


def _fillers(source: Fillers) -> Iterator[Segment]:
    """Fillers of one lane without end, drawn a block at a time."""
    for block in count():
        yield from source.draw(block, _BLOCK, batch_size=1)


class Cues(NamedTuple):
    """What lanes have to remember."""

    first: Segment  # (B lanes) episodes' first segments
    groups: torch.Tensor  # int64 (B,), equal where the same has to be remembered
    questions: tuple[Question, ...]
    grouped_by: str | None  # None, and no questions, where all lanes are one group


class _Asked(NamedTuple):
    """Where in an episode the action depends on what has to be remembered, and what this is, None if unknown."""

    episode: int
    at: int
    what: Hashable


def read_cues(store: Episodes, length: int, lanes: int, random: np.random.Generator) -> Cues:
    """Draw episodes of more than `length` steps, as many of one kind as of another; ask how they go on.

    Raises:
        UsageError: there are none.
    """
    longer = random.permutation(np.flatnonzero(store.lengths > length))[: 8 * lanes].tolist()
    if not longer:
        raise UsageError(
            f"segment_length={length}, but no episode of its data has more steps, so there is nothing to "
            "carry along; choose a run of shorter segments"
        )
    asked = _alternating([_asked(store, index, length) for index in longer])[:lanes]
    numbers = {what: number for number, what in enumerate(dict.fromkeys(each.what for each in asked))}
    first = collate([store.span(each.episode, 0, length) for each in asked])
    groups = torch.tensor([numbers[each.what] for each in asked])
    if len(numbers) < 2:
        return Cues(first, groups, (), None)
    questions = tuple(_question(store, each, length, numbers[each.what]) for each in asked[:QUESTIONS])
    return Cues(first, groups, questions, _declared(store))


def _declared(store: Episodes) -> str:
    """What `_Asked.what` is in these data."""
    trajectory = store.span(0, 0, 1).trajectory
    if trajectory.hindsight is not None:
        return "hindsight class"
    return "last action" if trajectory.decisive is None else "decisive action"


def _asked(store: Episodes, index: int, length: int) -> _Asked:
    """The first decisive step behind the first segment; where the task declares none, the last step.

    What has to be remembered is the step's hindsight class where the task declares it, else its action, if discrete.
    """
    last = int(store.lengths[index]) - 1
    trajectory, start, _ = store.span(index, last, last + 1)
    decisive = [] if trajectory.decisive is None else np.flatnonzero(trajectory.decisive).tolist()
    at = next((step for step in decisive if step >= length), last)
    place = at + start - last  # in a trajectory that may hold the last step alone
    if trajectory.hindsight is not None:
        return _Asked(index, at, int(trajectory.hindsight[place]))
    actions = trajectory.actions
    if isinstance(actions, np.ndarray) and actions.dtype.kind in "iu":
        return _Asked(index, at, tuple(np.ravel(actions[place]).tolist()))
    return _Asked(index, at, None)


def _alternating(asked: Sequence[_Asked]) -> list[_Asked]:
    """The first of each kind, then the second of each, and so on."""
    seen: Counter[Hashable] = Counter()
    ranked = []
    for each in asked:
        ranked.append((seen[each.what], each))
        seen[each.what] += 1
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])]


def _question(store: Episodes, asked: _Asked, length: int, group: int) -> Question:
    """The steps up to the decisive one, as many as a segment holds, none of the first segment."""
    start = max(length, asked.at + 1 - length)
    return Question(collate([store.span(asked.episode, start, asked.at + 1)]), asked.at - start, group)


def write_inspection(inspection: Inspection, folder: Path) -> Path:
    """Write all numbers into the folder's inspection.json, and return its path.

    Raises:
        UsageError: the file can't be written.
    """
    path = folder / FILE
    record = {"format": FORMAT} | asdict(inspection) | {"sizes": inspection.sizes._asdict()}
    write_atomically(path, json.dumps(record, indent=1, allow_nan=False).encode())
    return path
