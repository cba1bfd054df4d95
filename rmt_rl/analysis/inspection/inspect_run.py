"""Measure the memory of a run on the data that the run learnt from, and write the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from rmt_rl.agent import Agent
from rmt_rl.analysis.inspection.cues import read_cues
from rmt_rl.analysis.inspection.retention import Retained, retention
from rmt_rl.analysis.inspection.states import named_leaves
from rmt_rl.analysis.inspection.writing import Written, writing
from rmt_rl.analysis.sizes import Sizes, agent_sizes
from rmt_rl.data.feed import Episodes
from rmt_rl.data.fillers import Fillers
from rmt_rl.data.segment import Segment, Span, cut
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.machine import check_fits
from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.options import RunConfig, offline_run
from rmt_rl.training.datasets import open_data

FORMAT, FILE = 1, "inspection.json"
MOST_SEGMENTS = 16  # that are inspected of an episode
A_DECADE = 4  # measurements
_BLOCK = 64  # filler segments drawn at once


@dataclass(frozen=True)
class Inspection:
    """All that was measured."""

    env: str
    agent: str
    checkpoint: str
    seed: int
    sizes: Sizes
    grouped_by: str | None  # what tells the memories of `retained` apart; None where nothing does
    written: tuple[Written, ...]  # by segment of an episode
    retained: tuple[Retained, ...]  # by number of filler segments


def inspect_run(
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
    """Measure the memory of a run. Data that the run had collected by itself, and that are gone, are collected anew.

    Args:
        run: its folder.
        checkpoint: `last` or `best`.
        segments: filler segments that memories are passed through.
        episodes: number of episodes that are inspected segment by segment.
        lanes: number of memories that are passed through the filler segments, the same ones for all.
        seed: of the choice of episodes and filler segments.
        device: the device of the agent.
        watched: passes the filler segments on, and may show progress.

    Raises:
        UsageError: the run has no data sets or no memory, its data can't be had, or they have no episode that is
            longer than a segment or no filler segment.
    """
    check_fits(f"memories={lanes}: comparing each with each", 8 * lanes * lanes, "choose fewer memories")
    config = offline_run(read_config(run), run)
    saved = read_checkpoint(path_of(run, checkpoint))
    agent = _with_memory(restore_agent(saved, device), run, config)
    store, length = open_data(config), agent.config.segment_length
    random = np.random.default_rng(seed)
    cues = read_cues(store, length, lanes, random)
    source = Fillers(store, length, seed)
    source.draw(0, count=1, batch_size=1)  # fails now, and not after all the rest
    whole = cut(_whole_segments(store, length, episodes, random), length)
    written = tuple(writing(agent, whole, seed))
    fillers = watched(islice(_fillers(source), segments))
    retained = retention(agent, cues.first, cues.groups, cues.questions, fillers, milestones(segments))
    return Inspection(
        env=config.env,
        agent=config.agent,
        checkpoint=f"{checkpoint}, update {saved.header.update}",
        seed=seed,
        sizes=agent_sizes(agent),
        grouped_by=cues.grouped_by,
        written=written,
        retained=tuple(retained),
    )


def _with_memory(agent: object, run: Path, config: RunConfig) -> Agent:
    """Return the agent of a run that carries a state from segment to segment; raise an error if it carries none."""
    if isinstance(agent, Agent) and named_leaves(agent.initial_state(1)):
        return agent
    raise UsageError(
        f"run {run} is of agent {config.agent!r}, which carries nothing from segment to segment; choose a run of an "
        "agent with a memory"
    )


def milestones(segments: int) -> list[int]:
    """Return 0, and four numbers a decade from 1 to `segments`, ascending."""
    number = round(A_DECADE * math.log10(segments)) + 1
    spaced = np.geomspace(1, segments, number).round().astype(int)
    return sorted({0, segments, *spaced.tolist()})


def _whole_segments(
    store: Episodes,
    length: int,
    episodes: int,
    random: np.random.Generator,
) -> list[Span]:
    """Draw episodes, without their last, shorter segment: what it writes is never read."""
    long_enough = np.flatnonzero(store.lengths >= length)
    spans = []
    for index in random.permutation(long_enough)[:episodes].tolist():
        segments = min(int(store.lengths[index]) // length, MOST_SEGMENTS)
        spans.append(store.span(index, 0, length * segments))
    return spans


def _fillers(source: Fillers) -> Iterator[Segment]:
    """Yield filler segments of one batch element without end, drawn a block at a time."""
    for block in count():
        yield from source.draw(block, _BLOCK, batch_size=1)


def write_inspection(inspection: Inspection, folder: Path) -> Path:
    """Write all numbers into the folder's inspection.json, and return its path.

    Raises:
        UsageError: the file can't be written.
    """
    path = folder / FILE
    record = {"format": FORMAT, **asdict(inspection), "sizes": inspection.sizes._asdict()}
    write_atomically(path, json.dumps(record, indent=1, allow_nan=False).encode())
    return path
