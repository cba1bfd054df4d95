"""A trace of everything seen: each segment adds the mean of its tokens, and every token sees the trace.

Dimensions: B batch elements, L tokens of a segment, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.nn.token_core import Layers, TokenCore
from rmt_rl.recurrence import OpenSegment, SegmentRecurrent, Tree, only_first


class TraceState(NamedTuple):
    """The trace (B, D) and the state of the inner core."""

    trace_BD: Tensor
    inner: Tree


class Trace(SegmentRecurrent[TraceState, OpenSegment]):
    """A core whose tokens see a trace of earlier segments.

    Args:
        inner: runs over tokens to which the trace is added.
        decay: share of the trace that is left after a segment.
    """

    def __init__(self, inner: SegmentRecurrent[Any, Any], decay: float = 0.9) -> None:
        super().__init__()
        self.inner, self.decay, self.width = inner, decay, inner.width
        self.write = nn.Linear(inner.width, inner.width)

    def initial_state(self, batch_size: int) -> TraceState:
        trace_BD = self.write.weight.new_zeros(batch_size, self.width)
        return TraceState(trace_BD, self.inner.initial_state(batch_size))

    def forward(self, x_BLD: Tensor, state: TraceState, lengths_B: Tensor | None = None) -> tuple[Tensor, TraceState]:
        batch_size, length, _ = x_BLD.shape
        count_B = torch.full((batch_size,), length, device=x_BLD.device) if lengths_B is None else lengths_B
        y_BLD, inner = self.inner(x_BLD + state.trace_BD[:, None], state.inner, lengths_B)
        seen_BLD = only_first(self.write(x_BLD).to(state.trace_BD.dtype), count_B)
        mean_BD = seen_BLD.sum(1) / count_B.clamp(min=1)[:, None]
        decay_B1 = torch.where(count_B > 0, self.decay, 1.0)[:, None].to(mean_BD.dtype)
        return y_BLD, TraceState(decay_B1 * state.trace_BD + mean_BD, inner)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        for decay in (1.0, 0.5):
            yield cls(DecoderLayer(DecoderConfig(width=width, heads=2)), decay)


def token_core(layers: Layers) -> Trace:
    """Return a trace around all layers of a token model."""
    return Trace(layers.build_stack())


TOKEN_CORES = {"lab_trace": TokenCore(token_core, streams=True)}
