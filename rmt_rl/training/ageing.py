"""Memory ageing: memories pass through filler segments before they are read, so that agents learn to leave them alone.

Once a segment of a batch (the first, or any) has written its memory, the memory passes through a random number of
filler segments without gradient. The aged value replaces the memory straight-through: later segments read an old
memory, and gradients still reach the writing. With ageing over updates, one batch is kept beside the new ones, and its
memories age further.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pydantic import Field

from rmt_rl import backprop
from rmt_rl.agent import Agent
from rmt_rl.config import SavedState
from rmt_rl.data.feed import Episodes, SegmentFeed
from rmt_rl.data.fillers import Fillers
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree, clone, detach, tree_leaves
from rmt_rl.runs.options import OfflineRun
from rmt_rl.training.parallel import FabricProcesses

Segments = tuple[Segment, ...]
RunSegments = Callable[[Tree, Segments], Tree]
"""Return the state after these segments, without gradient."""


class Kept(NamedTuple):
    """A batch kept over several updates. Each ages the memories that a segment left, and trains on those behind it.

    Attributes:
        update: the update that the batch was drawn for.
        batch: this process's sequences of the batch.
        later: number of the segments behind the fillers.
        age: number of filler segments that the memories have passed through.
        state: the memories, without gradient.
    """

    update: int
    batch: Batch
    later: int
    age: int
    state: Tree


class SavedKept(SavedState):
    """The facts of a checkpoint by which the kept batch is drawn again."""

    update: int = Field(ge=0)
    segments: int = Field(ge=1)
    age: int = Field(ge=0)


class Ageing:
    """The filler segments of each update, and the kept batch.

    Raises:
        UsageError: the agent carries no state, or the data hold no filler segment.
    """

    def __init__(self, config: OfflineRun, episodes: Episodes, agent: Agent, processes: FabricProcesses) -> None:
        self.options = config.training
        self.seed = config.seed
        self.processes = processes
        self.kept: Kept | None = None
        self._source = Fillers(episodes, config.agent_options.segment_length, config.seed)
        self._most = self._settled(config, agent)

    def _settled(self, config: OfflineRun, agent: Agent) -> int:
        """Return the largest number of filler segments of an update; 0 if memories don't age."""
        most = self.options.most_fillers
        if not most:
            return 0
        carries_state = bool(tree_leaves(agent.initial_state(1)))
        source = self._source
        if self.options.ageing == "auto" and not self.options.ageing_updates:
            is_possible = carries_state and agent.core.lasting and config.data.segments > 1
            return most if is_possible and source.are_declared and source.exist else 0
        if not carries_state:
            raise UsageError(f"ageing={most}: agent {config.agent!r} carries no state that could age; give 0")
        source.draw(0, count=1, batch_size=1)  # fails now, and not when ageing begins
        return most

    def border(self, update: int, segments: int) -> int:
        """Return the index of the segment behind which an update's filler segments come; it is never the last one."""
        if self.options.ageing_at == "first" or segments < 2:
            return 0
        generator = np.random.default_rng([self.seed, update, 2])
        return int(generator.integers(0, segments - 1))

    def fillers(self, update: int, segments: int) -> Segments | None:
        """Return the filler segments of an update on `segments` segments; None if its memories don't age."""
        has_begun = update >= self.options.first_aged
        if not self._most or not has_begun or segments < 2:
            return None
        generator = np.random.default_rng([self.seed, update])
        count = int(generator.integers(0, self._most + 1))
        processes = self.processes
        fillers = self._source.draw(update, count, processes.batch_size, processes.rows)
        return tuple(filler.to(processes.device) for filler in fillers)

    def aged(self, state: Tree, fillers: Segments, run: RunSegments) -> Tree:
        """Return the state after the filler segments, with the gradient of the state before them."""
        aged = run(state, fillers)
        return backprop.straight_through(state, aged)

    def age_kept(self, fillers: Segments, run: RunSegments) -> Kept | None:
        """Age the kept memories further; return the batch with them, if one is kept."""
        kept = self.kept
        if kept is None:
            return None
        age = kept.age + len(fillers)
        state = run(kept.state, fillers)
        self.kept = kept._replace(age=age, state=clone(state))
        return self.kept

    def keep(self, update: int, batch: Batch, age: int, state: Tree) -> None:
        """Keep this update's batch instead of the kept one, now and then, at random."""
        if self._replaces_kept(update):
            memories = clone(detach(state))
            self.kept = Kept(update, batch, self._later(update, batch), age, memories)

    def _later(self, update: int, batch: Batch) -> int:
        segments = len(batch.segments)
        return segments - 1 - self.border(update, segments)

    def _replaces_kept(self, update: int) -> bool:
        """Return True, at random, once in `ageing_updates` updates; also if no batch is kept yet."""
        mean_updates = self.options.ageing_updates
        if mean_updates == 0:
            return False
        if self.kept is None:
            return True
        generator = np.random.default_rng([self.seed, update, 1])
        return generator.random() * mean_updates < 1

    def restore(self, feed: SegmentFeed, saved: SavedKept, state: Tree) -> None:
        """Keep the batch that was kept when the run was saved; the feed draws it again."""
        whole = feed.uncut(saved.update)
        batch = self.processes.own(whole.first(saved.segments))
        own_state = self.processes.own_state(state)
        self.kept = Kept(saved.update, batch, self._later(saved.update, batch), saved.age, own_state)

    def kept_facts(self) -> SavedKept | None:
        """Return the facts to save of the kept batch; None if no batch is kept."""
        kept = self.kept
        if kept is None:
            return None
        segments = len(kept.batch.segments)
        return SavedKept(update=kept.update, segments=segments, age=kept.age)

    def kept_state(self) -> Tree:
        """Return the memories to save; an empty tree if no batch is kept."""
        return self.kept.state if self.kept else ()
