"""Segments: batches of consecutive steps as tensors, cut from trajectories.

Dimensions in names: B sequences of a batch (batch elements), K steps of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.trees import map_leaves

Tensors: TypeAlias = torch.Tensor | dict[str, "Tensors"] | tuple["Tensors", ...]
Lengths: TypeAlias = npt.NDArray[np.int64]
TensorFunction: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Span(NamedTuple):
    """The steps `start <= step < stop` of a trajectory."""

    trajectory: Trajectory
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.stop - self.start

    def split(self, steps: int) -> tuple[Span, Span]:
        """Return the first steps, and the rest."""
        border = self.start + steps
        before = Span(self.trajectory, self.start, border)
        after = Span(self.trajectory, border, self.stop)
        return before, after


@dataclass(frozen=True, eq=False)
class Segment:
    """K consecutive steps of B sequences; a sequence's real steps come first, zeros after them.

    Floats are float32, images keep uint8, other integers are int64.
    """

    observations: Tensors  # (B, K, ...)
    actions: Tensors  # (B, K, ...)
    returns_to_go: torch.Tensor  # (B, K) float32, rewards until the end of the episode
    rewards: torch.Tensor  # (B, K) float32, that of each step's action
    terminations: torch.Tensor  # (B, K) bool, True at an episode's last step if the environment ended it
    truncations: torch.Tensor  # (B, K) bool, True at an episode's last step if a limit cut it off
    lengths: torch.Tensor  # (B,) int64, real steps; 0 in a sequence that has ended
    full: bool = False  # True: every step is real; `lengths`, which may be on another device, needn't be read
    hindsight: torch.Tensor | None = None  # (B, K) int64, as in `Trajectory`; None if the task declares none
    decisive: torch.Tensor | None = None  # (B, K) bool, as in `Trajectory`; None if the task declares none
    following: Tensors | None = None  # (B, ...) observation after each sequence's last real step here, if known
    next_values: torch.Tensor | None = None  # (B, K) float32, a learner's estimate of the value after each step
    hides_actions: torch.Tensor | None = None  # (B,) bool, True where an agent may not see the actions; None: nowhere

    @property
    def mask(self) -> torch.Tensor:
        """True for the real steps, bool (B, K)."""
        steps = torch.arange(self.returns_to_go.shape[1], device=self.lengths.device)
        return steps < self.lengths[:, None]

    def to(self, device: torch.device | str) -> Segment:
        """Return the same segment on a device."""
        return self._map(lambda leaf: moved(leaf, device))

    def select(self, indices: torch.Tensor) -> Segment:
        """Return the segment of some batch elements alone (int64 indices)."""
        return self._map(lambda leaf: leaf[indices])

    def _map(self, function: TensorFunction) -> Segment:
        """Return the segment with the function's value of every tensor."""
        mapped = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "full" and value is not None:
                mapped[field.name] = map_leaves(function, value)
        return replace(self, **mapped)


@dataclass(frozen=True, eq=False)
class Batch:
    """Segments to run one after another; each begins with the state that the previous one returned."""

    segments: tuple[Segment, ...]
    fresh: torch.Tensor  # (B,) bool, sequences that begin with a fresh state; others continue from the last update
    steps: int  # real steps of all segments, without burn-in
    burn_in: tuple[Segment, ...] = ()  # run first, only for the state of the sequences with real steps in them

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on a device."""
        return self._map(lambda segment: segment.to(device), moved(self.fresh, device))

    def select(self, indices: torch.Tensor) -> Batch:
        """Return some sequences alone (int64 indices); `steps` remains that of all, by which losses are averaged."""
        return self._map(lambda segment: segment.select(indices), self.fresh[indices])

    def first(self, count: int) -> Batch:
        """Return the batch of the first `count` segments alone."""
        segments = self.segments[:count]
        steps = [int(segment.lengths.sum()) for segment in segments]
        return replace(self, segments=segments, steps=sum(steps))

    def _map(self, function: Callable[[Segment], Segment], fresh: torch.Tensor) -> Batch:
        """Return the batch with the function's value of every segment, and with another `fresh`."""
        segments = tuple(map(function, self.segments))
        burn_in = tuple(map(function, self.burn_in))
        return Batch(segments, fresh, self.steps, burn_in)


def moved(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return the tensor on a device. The host doesn't wait for the copy, which CUDA makes from pinned memory."""
    target = torch.device(device).type
    if target == "cpu":
        return tensor.to(device)
    if target == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def cut(spans: Sequence[Span], segment_length: int, lengths: Lengths | None = None) -> tuple[Segment, ...]:
    """Cut each span into segments of `segment_length` steps, as many as the longest sequence of the batch needs.

    A segment is as long as its longest sequence, so only the last segment may be shorter. Sequences that have ended
    have no real step in it. Spans without any step give no segment.

    Args:
        spans: some or all sequences of a batch.
        segment_length: steps of a full segment.
        lengths: steps of all sequences of the batch; None if `spans` are all.
    """
    if lengths is None:
        lengths = np.array([span.length for span in spans], dtype=np.int64)
    segments = []
    for offset in range(0, int(lengths.max()), segment_length):
        parts = [_part(span, offset, segment_length) for span in spans]
        of_segment = np.clip(lengths - offset, 0, segment_length)
        segments.append(collate(parts, of_segment))
    return tuple(segments)


def collate(spans: Sequence[Span], of_all: Lengths | None = None) -> Segment:
    """Return one segment of the spans, padded with zeros to the longest sequence of the batch.

    Args:
        spans: some or all sequences of a batch.
        of_all: steps of all sequences of the batch; None if `spans` are all.
    """
    lengths = np.array([span.length for span in spans], dtype=np.int64)
    if of_all is None:
        of_all = lengths
    longest = int(of_all.max())
    trajectories = [span.trajectory for span in spans]

    def padded(name: str) -> Any:
        values = [getattr(trajectory, name) for trajectory in trajectories]
        return _pad(values, spans, longest)

    def padded_if_declared(name: str) -> torch.Tensor | None:
        values = [getattr(trajectory, name) for trajectory in trajectories]
        is_declared = all(value is not None for value in values)
        return padded(name) if is_declared else None

    return Segment(
        observations=padded("observations"),
        actions=padded("actions"),
        returns_to_go=padded("returns_to_go"),
        rewards=padded("rewards"),
        terminations=padded("terminations"),
        truncations=padded("truncations"),
        lengths=torch.from_numpy(lengths),
        full=bool((of_all == longest).all()),
        hindsight=padded_if_declared("hindsight"),
        decisive=padded_if_declared("decisive"),
        following=_following([trajectory.observations for trajectory in trajectories], spans),
    )


def _part(span: Span, offset: int, length: int) -> Span:
    """Return up to `length` steps of a span, from its step `offset` on."""
    start = min(span.start + offset, span.stop)
    stop = min(start + length, span.stop)
    return Span(span.trajectory, start, stop)


def _following(observations: Sequence[Arrays], spans: Sequence[Span]) -> Tensors:
    """Return the observation behind each span, as tensors (B, ...)."""

    def behind(*arrays: Array) -> torch.Tensor:
        rows = [array[span.stop] for array, span in zip(arrays, spans, strict=True)]
        return torch.from_numpy(tensor_array(np.stack(rows)))

    following: Tensors = map_leaves(behind, *observations)
    return following


def _pad(values: Sequence[Arrays], spans: Sequence[Span], length: int) -> Tensors:
    """Return the spans' steps of the arrays (T, ...), one array a span, as tensors (B, length, ...)."""

    def pad_leaf(*arrays: Array) -> torch.Tensor:
        first = arrays[0]
        shape = (len(arrays), length, *first.shape[1:])
        padded = np.zeros(shape, _tensor_dtype(first.dtype))
        for row, array, (_, start, stop) in zip(padded, arrays, spans, strict=True):
            row[: stop - start] = _within_int64(array[start:stop])
        return torch.from_numpy(padded)

    padded: Tensors = map_leaves(pad_leaf, *values)
    return padded


def tensor_array(array: Array) -> Array:
    """Return a copy of an array that `torch.from_numpy` takes, in C order and in one of a segment's dtypes."""
    return np.array(_within_int64(array), _tensor_dtype(array.dtype), order="C")


def _within_int64(array: Array) -> Array:
    """Return the array, with the largest int64 in place of what is above it (uint64 alone)."""
    return np.minimum(array, np.iinfo(np.int64).max) if array.dtype == np.uint64 else array


def _tensor_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a tensor's array: float32, int64, or the array's own (uint8, bool)."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype != np.uint8:
        return np.dtype(np.int64)
    return dtype
