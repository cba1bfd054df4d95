"""Segments: batches of consecutive steps as tensors, cut from trajectories.

Dimensions in names: B sequences of a batch (batch elements), K steps of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.trees import map_leaves

Tensors: TypeAlias = torch.Tensor | dict[str, "Tensors"] | tuple["Tensors", ...]


class Span(NamedTuple):
    """The steps `start <= step < stop` of a trajectory."""

    trajectory: Trajectory
    start: int
    stop: int

    def split(self, steps: int) -> tuple[Span, Span]:
        """The first steps, and the rest."""
        border = self.start + steps
        return Span(self.trajectory, self.start, border), Span(self.trajectory, border, self.stop)


@dataclass(frozen=True, eq=False)
class Segment:
    """K consecutive steps of B sequences; a sequence's real steps come first, zeros after them.

    Floats are float32, images keep uint8, other integers are int64.
    """

    observations: Tensors  # (B, K, ...)
    actions: Tensors  # (B, K, ...)
    returns_to_go: torch.Tensor  # (B, K) float32, of the whole episode
    rewards: torch.Tensor  # (B, K) float32, each that of its step's action
    terminations: torch.Tensor  # (B, K) bool, True at an episode's last step if the environment ended it
    truncations: torch.Tensor  # (B, K) bool, True at an episode's last step if a limit cut it off
    lengths: torch.Tensor  # (B,) int64, real steps; 0 in a sequence that has ended
    full: bool = False  # True: every step is real, known without a look at `lengths` on its device
    hindsight: torch.Tensor | None = None  # (B, K) int64, as in `Trajectory`; None if the task declares none
    decisive: torch.Tensor | None = None  # (B, K) bool, likewise

    @property
    def mask(self) -> torch.Tensor:
        """True for the real steps, bool (B, K)."""
        steps = torch.arange(self.returns_to_go.shape[1], device=self.lengths.device)
        return steps < self.lengths[:, None]

    def to(self, device: torch.device | str) -> Segment:
        """Return the same segment on a device."""
        return self._map(lambda leaf: leaf.to(device, non_blocking=True))

    def select(self, indices: torch.Tensor) -> Segment:
        """Return the segment of these batch elements alone (int64 indices)."""
        return self._map(lambda leaf: leaf[indices])

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Segment:
        held = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "full"}
        return replace(self, **{name: map_leaves(function, value) for name, value in held.items() if value is not None})


@dataclass(frozen=True, eq=False)
class Batch:
    """Segments to be run one after another, with the state carried from each to the next."""

    segments: tuple[Segment, ...]
    fresh: torch.Tensor  # (B,) bool, sequences whose state is fresh at their first step; others go on
    steps: int  # real steps of all segments, without burn-in
    burn_in: tuple[Segment, ...] = ()  # run first, for the state alone, of sequences with real steps in them

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on a device."""
        return self._map(lambda segment: segment.to(device), lambda leaf: leaf.to(device, non_blocking=True))

    def select(self, indices: torch.Tensor) -> Batch:
        """Return these sequences alone (int64 indices); `steps` stays that of all, by which losses are averaged."""
        return self._map(lambda segment: segment.select(indices), lambda leaf: leaf[indices])

    def first(self, count: int) -> Batch:
        """Return the batch of the first `count` segments alone."""
        kept = self.segments[:count]
        return replace(self, segments=kept, steps=sum(int(segment.lengths.sum()) for segment in kept))

    def _map(self, of_segment: Callable[[Segment], Segment], of_leaf: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return Batch(
            tuple(map(of_segment, self.segments)),
            of_leaf(self.fresh),
            self.steps,
            tuple(map(of_segment, self.burn_in)),
        )


def cut(spans: Sequence[Span], segment_length: int) -> tuple[Segment, ...]:
    """Cut each span into segments of `segment_length` steps, as many as the longest span needs.

    A segment is as long as its longest sequence, so only the last segment may be shorter. Sequences that have ended
    have no real step in it. Spans without any step give no segment.
    """
    longest = max(span.stop - span.start for span in spans)
    return tuple(
        collate([_part(span, offset, segment_length) for span in spans]) for offset in range(0, longest, segment_length)
    )


def collate(spans: Sequence[Span]) -> Segment:
    """Return one segment of these spans, padded with zeros to the longest."""
    lengths = np.array([span.stop - span.start for span in spans], dtype=np.int64)
    longest = int(lengths.max())
    trajectories = [span.trajectory for span in spans]

    def padded(name: str) -> Any:
        return _pad([getattr(trajectory, name) for trajectory in trajectories], spans, longest)

    def declared(name: str) -> torch.Tensor | None:
        known = all(getattr(trajectory, name) is not None for trajectory in trajectories)
        return padded(name) if known else None

    return Segment(
        observations=padded("observations"),
        actions=padded("actions"),
        returns_to_go=padded("returns_to_go"),
        rewards=padded("rewards"),
        terminations=padded("terminations"),
        truncations=padded("truncations"),
        lengths=torch.from_numpy(lengths),
        full=bool((lengths == longest).all()),
        hindsight=declared("hindsight"),
        decisive=declared("decisive"),
    )


def _part(span: Span, offset: int, length: int) -> Span:
    start = min(span.start + offset, span.stop)
    return Span(span.trajectory, start, min(start + length, span.stop))


def _pad(values: Sequence[Arrays], spans: Sequence[Span], length: int) -> Tensors:
    """Return the spans of arrays (T, ...), one a span, as tensors (B, length, ...)."""

    def pad_leaf(*arrays: Array) -> torch.Tensor:
        padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]), _tensor_dtype(arrays[0].dtype))
        for row, array, (_, start, stop) in zip(padded, arrays, spans, strict=True):
            row[: stop - start] = array[start:stop]
        return torch.from_numpy(padded)

    padded: Tensors = map_leaves(pad_leaf, *values)
    return padded


def _tensor_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(np.int64) if dtype.kind in "iu" and dtype != np.uint8 else dtype
