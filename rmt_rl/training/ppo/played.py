"""Steps that were played in several environments, cut into segments to learn from.

Dimensions: T steps kept of each of B environments (lanes); C chains in a batch, K steps of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.data.segment import Segment, tensor_array
from rmt_rl.trees import map_leaves

Array = NDArray[Any]
Counts = NDArray[np.int64]
Place = tuple[int, int]
"""The index of a part, and that of one of its segments."""


class Step(NamedTuple):
    """One step of all lanes.

    Attributes:
        observation: (B, ...).
        action: (B, ...), values of the action space.
        chosen: (B, N) what the head chose, which the actions are made of.
        return_to_go: (B,) float32, what the agent saw as such.
        start: (B,) bool, True at an episode's first step.
        allowed: (B, M) bool, the action masks; None if the environments have none.
    """

    observation: Any
    action: Any
    chosen: Array
    return_to_go: Array
    start: Array
    allowed: Array | None = None


class Stretch(NamedTuple):
    """The steps `start <= step < stop` of a lane, which one segment holds."""

    lane: int
    start: int
    stop: int


class Part(NamedTuple):
    """Consecutive segments of one episode.

    Attributes:
        fresh: the first one begins the episode.
        segments: their steps.
    """

    fresh: bool
    segments: list[Stretch]

    def chains(self, length: int) -> Iterator[tuple[int, list[Stretch]]]:
        """Yield the place and the steps of up to `length` segments in a row, until there are none left."""
        for first in range(0, len(self.segments), length):
            yield first, self.segments[first : first + length]


class Played(NamedTuple):
    """The steps kept of all lanes.

    Attributes:
        observations: (T, B, ...).
        actions: (T, B, ...).
        chosen: (T, B, N).
        returns_to_go: (T, B) float32.
        starts: (T, B) bool.
        allowed: (T, B, M) bool; None if there are no action masks.
    """

    observations: Any
    actions: Any
    chosen: Array
    returns_to_go: Array
    starts: Array
    allowed: Array | None

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Played:
        """Return so many steps in one."""
        observations, actions, chosen, returns, starts, allowed = zip(*steps, strict=True)
        return cls(
            _stacked(observations),
            _stacked(actions),
            np.stack(chosen),
            np.stack(returns),
            np.stack(starts),
            _stacked_masks(allowed),
        )

    def parts(self, opened: Counts, segment_length: int) -> list[Part]:
        """Return the segments of all lanes, by episode.

        Args:
            opened: (B,) the first step of each lane that counts, which begins a segment.
            segment_length: steps of a full segment.
        """
        count, lanes = self.starts.shape
        parts = []
        for lane in range(lanes):
            first = int(opened[lane])
            if first == count:
                continue
            later_starts = np.flatnonzero(self.starts[first + 1 :, lane]) + first + 1
            for start, stop in pairwise([first, *later_starts.tolist(), count]):
                borders = [*range(start, stop, segment_length), stop]
                segments = [Stretch(lane, begin, end) for begin, end in pairwise(borders)]
                parts.append(Part(bool(self.starts[start, lane]), segments))
        return parts

    def segment(self, stretches: Sequence[Stretch], device: torch.device) -> tuple[Segment, Places]:
        """Return the steps of several lanes as a segment, and their places here."""
        lengths = np.array([stretch.stop - stretch.start for stretch in stretches])
        steps = np.arange(max(int(lengths.max()), 1))
        starts = np.array([stretch.start for stretch in stretches])[:, None]
        lanes = np.array([stretch.lane for stretch in stretches])[:, None]
        last = np.maximum(starts + lengths[:, None] - 1, starts)
        places = np.minimum(starts + steps, last)  # padding repeats the last step
        taken = places, np.broadcast_to(lanes, places.shape)

        def put(leaf: Array) -> Tensor:
            return torch.from_numpy(tensor_array(leaf[taken])).to(device)

        nothing = torch.zeros(places.shape, device=device)
        segment = Segment(
            observations=map_leaves(put, self.observations),
            actions=map_leaves(put, self.actions),
            returns_to_go=put(self.returns_to_go),
            rewards=nothing,
            terminations=nothing.bool(),
            truncations=nothing.bool(),
            lengths=torch.from_numpy(lengths).to(device),
            full=bool((lengths == len(steps)).all()),
        )
        return segment, Places(*taken, steps < lengths[:, None])


class Places(NamedTuple):
    """The places of a segment's steps among those played, (C, K) each, and which of them are real."""

    steps: Counts
    lanes: Counts
    real: NDArray[np.bool_]

    def since(self, first: int) -> Places:
        """Return the places; those of steps before the `first` count as padding."""
        return self._replace(real=self.real & (self.steps >= first))


def _stacked(values: Sequence[Any]) -> Any:
    first, *others = values
    return map_leaves(lambda *leaves: np.stack(leaves), first, *others)


def _stacked_masks(masks: Sequence[Array | None]) -> Array | None:
    """Return masks (B, M) as (T, B, M); steps without masks allow every action. None if no step has masks."""
    some = next((mask for mask in masks if mask is not None), None)
    if some is None:
        return None
    every = np.ones_like(some)
    return np.stack([every if mask is None else mask for mask in masks])
