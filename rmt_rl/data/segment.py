"""Segments: batches of consecutive steps as tensors, cut from trajectories.

Dimensions in names: B lanes of a batch, K steps of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch

from rmt_rl.data.trajectory import Array, Arrays, Trajectory

Tree: TypeAlias = torch.Tensor | dict[str, "Tree"] | tuple["Tree", ...]


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
    """K consecutive steps in each of B lanes; a lane's real steps come first, zeros after them.

    Floats are float32, images keep uint8, other integers are int64.
    """

    observations: Tree  # (B, K, ...)
    actions: Tree  # (B, K, ...)
    returns_to_go: torch.Tensor  # (B, K) float32, of the whole episode
    lengths: torch.Tensor  # (B,) int64, real steps; 0 in a lane that has ended
    full: bool = False  # True: every step is real, known without a look at `lengths` on its device
    hindsight: torch.Tensor | None = None  # (B, K) int64, as in `Trajectory`; None where the task declares none
    decisive: torch.Tensor | None = None  # (B, K) bool, likewise

    @property
    def mask(self) -> torch.Tensor:
        """True for the real steps, bool (B, K)."""
        steps = torch.arange(self.returns_to_go.shape[1], device=self.lengths.device)
        return steps < self.lengths[:, None]

    def to(self, device: torch.device | str) -> Segment:
        """The same segment on a device."""
        return self._map(lambda leaf: leaf.to(device, non_blocking=True))

    def select(self, lanes: torch.Tensor) -> Segment:
        """The segment of these lanes alone (int64 indices)."""
        return self._map(lambda leaf: leaf[lanes])

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Segment:
        return Segment(
            map_leaves(function, self.observations),
            map_leaves(function, self.actions),
            function(self.returns_to_go),
            function(self.lengths),
            self.full,
            None if self.hindsight is None else function(self.hindsight),
            None if self.decisive is None else function(self.decisive),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Segments to be run one after another, the state carried from each to the next; those of burn-in come first."""

    segments: tuple[Segment, ...]
    fresh: torch.Tensor  # (B,) bool, lanes whose state is fresh at the first step that is read; others go on
    steps: int  # real steps of all segments, without burn-in
    burn_in: tuple[Segment, ...] = ()  # run for the state alone, where a lane has real steps in them

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return self._map(lambda segment: segment.to(device), lambda leaf: leaf.to(device, non_blocking=True))

    def select(self, lanes: torch.Tensor) -> Batch:
        """These lanes alone (int64 indices); `steps` stays that of all, by which losses are averaged."""
        return self._map(lambda segment: segment.select(lanes), lambda leaf: leaf[lanes])

    def first(self, count: int) -> Batch:
        """The first `count` segments alone."""
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
    """Cut each lane's span into segments of `segment_length` steps, as many as the longest span needs.

    A segment is as long as the longest lane in it, so only the last one may be shorter; lanes that have ended
    have no real step in it. Spans without any step give no segment.
    """
    longest = max(span.stop - span.start for span in spans)
    return tuple(
        collate([_part(span, offset, segment_length) for span in spans]) for offset in range(0, longest, segment_length)
    )


def collate(spans: Sequence[Span]) -> Segment:
    """One segment whose lanes are these spans, padded with zeros to the longest."""
    lengths = np.array([span.stop - span.start for span in spans], dtype=np.int64)
    longest = int(lengths.max())
    return Segment(
        observations=_pad([span.trajectory.observations for span in spans], spans, longest),
        actions=_pad([span.trajectory.actions for span in spans], spans, longest),
        returns_to_go=_pad_leaf([span.trajectory.returns_to_go for span in spans], spans, longest),
        lengths=torch.from_numpy(lengths),
        full=bool((lengths == longest).all()),
        hindsight=_pad_optional([span.trajectory.hindsight for span in spans], spans, longest),
        decisive=_pad_optional([span.trajectory.decisive for span in spans], spans, longest),
    )


def _part(span: Span, offset: int, length: int) -> Span:
    start = min(span.start + offset, span.stop)
    return Span(span.trajectory, start, min(start + length, span.stop))


def _pad(trees: Sequence[Arrays], spans: Sequence[Span], length: int) -> Tree:
    first = trees[0]
    if isinstance(first, dict):
        lanes = cast("Sequence[dict[str, Arrays]]", trees)
        return {key: _pad([lane[key] for lane in lanes], spans, length) for key in first}
    if isinstance(first, tuple):
        branches = zip(*cast("Sequence[tuple[Arrays, ...]]", trees), strict=True)
        return tuple(_pad(branch, spans, length) for branch in branches)
    return _pad_leaf(cast("Sequence[Array]", trees), spans, length)


def _pad_optional(leaves: Sequence[Array | None], spans: Sequence[Span], length: int) -> torch.Tensor | None:
    known = [leaf for leaf in leaves if leaf is not None]
    return _pad_leaf(known, spans, length) if len(known) == len(leaves) else None


def _pad_leaf(leaves: Sequence[Array], spans: Sequence[Span], length: int) -> torch.Tensor:
    """The spans of arrays (T, ...) as one tensor (B, length, ...)."""
    padded = np.zeros((len(leaves), length, *leaves[0].shape[1:]), _tensor_dtype(leaves[0].dtype))
    for lane, leaf, (_, start, stop) in zip(padded, leaves, spans, strict=True):
        lane[: stop - start] = leaf[start:stop]
    return torch.from_numpy(padded)


def _tensor_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(np.int64) if dtype.kind in "iu" and dtype != np.uint8 else dtype


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same Dict or Tuple tree of `function(leaf)`; leaves may be arrays or tensors."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, branch) for key, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_leaves(function, branch) for branch in tree)
    return function(tree)
