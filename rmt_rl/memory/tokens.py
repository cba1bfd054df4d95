"""Memory tokens around any core: read before the segment, written after it (RMT, RATE).

RMT (arXiv 2207.06881), equations 4 and 5: the core runs over [M_n; X; M_n], and its output at the last M places is
the new memory M_{n+1}. The memory that a segment writes thus enters the next segment twice: as its read tokens and as
the input of its write tokens. `writes="learned"` cuts the second path, from write tokens to the next write tokens: the
core runs over [M_n; X; W] with W learned, and what is written knows the old memory by attention only.

The tokens form one causal row without masks, [read, real tokens, write, padding]. So fused causal kernels can be used,
padding can't be seen, and the write tokens directly follow a batch element's last real token.

Dimensions: B batch elements, L tokens of a segment, M memory tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from rmt_rl.memory.valve import VALVES, ValveName
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.nn.graphs import without_autocast
from rmt_rl.recurrence import CacheT, SegmentRecurrent, Tree, clone, take_tokens

Writes = Literal["memory", "learned"]


class MemoryState(NamedTuple):
    """The memory (B, M, D), the valve's state, and the inner core's state."""

    memory_BMD: Tensor
    valve: Tree
    inner: Tree


class OpenMemory(NamedTuple):
    """The cache of an open segment: the memory as it was read, the valve's state, and the inner core's cache."""

    memory_BMD: Tensor
    valve: Tree
    inner: Tree


class LearnedMemory(SegmentRecurrent[MemoryState, CacheT]):
    """A core with a memory of M vectors, whose initial values are learned, and a valve that joins old and new memory.

    Args:
        inner: the core that reads and writes.
        count: M, the number of memory tokens.
        valve: how old and new memory are joined (see `rmt_rl.memory.valve`).
        valve_heads: attention heads of the valves ca-1 and ca-2.
    """

    def __init__(
        self, inner: SegmentRecurrent[Any, Any], count: int, valve: ValveName = "none", valve_heads: int = 1
    ) -> None:
        super().__init__()
        self.inner, self.count, self.width = inner, count, inner.width
        # Random, not zero: equal tokens would get equal gradients and stay equal for ever.
        self.memory_MD = nn.Parameter(torch.randn(count, inner.width) * 0.5)
        self.valve = VALVES[valve](inner.width, valve_heads)

    def join(self, state: MemoryState | OpenMemory, written_BMD: Tensor) -> tuple[Tensor, Tree]:
        """Join the memory that was read and the written one; return the next memory and the valve's next state.

        This runs in the weights' precision even under autocast. A memory that is rounded in every segment drifts, and
        small changes to it are lost.
        """
        dtype = self.memory_MD.dtype
        with without_autocast(written_BMD.device):
            memory_BMD, valve = self.valve(state.memory_BMD.to(dtype), written_BMD.to(dtype), state.valve)
        return memory_BMD, valve

    def initial_state(self, batch_size: int) -> MemoryState:
        memory_BMD = self.memory_MD.expand(batch_size, -1, -1)
        return MemoryState(memory_BMD, self.valve.initial_state(memory_BMD), self.inner.initial_state(batch_size))


class MemoryTokens(LearnedMemory[OpenMemory]):
    """Wrap a causal core with M memory tokens.

    Args:
        inner: the core, see `LearnedMemory`.
        count: M, the number of memory tokens.
        valve: joins the memory that a segment read and the one that it wrote.
        valve_heads: attention heads of the valve, if it has any.
        writes: the input of a segment's write tokens: the memory that the segment reads, or learned tokens.
    """

    def __init__(
        self,
        inner: SegmentRecurrent[Any, Any],
        count: int,
        valve: ValveName = "none",
        valve_heads: int = 1,
        writes: Writes = "memory",
    ) -> None:
        super().__init__(inner, count, valve, valve_heads)
        self.writes_MD: nn.Parameter | None = None
        if writes == "learned":
            self.writes_MD = nn.Parameter(torch.randn(count, inner.width) * 0.5)

    def forward(self, x_BLD: Tensor, state: MemoryState, lengths_B: Tensor | None = None) -> tuple[Tensor, MemoryState]:
        length, read_BMD = x_BLD.shape[1], state.memory_BMD.to(x_BLD.dtype)
        row = torch.cat((read_BMD, x_BLD, self._writes(read_BMD)), 1)
        if lengths_B is None:
            y, inner = self.inner(row, state.inner)
            written_BMD = y[:, -self.count :]
        else:
            order, writes_BM = self._order(length, lengths_B)
            y, inner = self.inner(take_tokens(row, order), state.inner, lengths_B + 2 * self.count)
            written_BMD = take_tokens(y, writes_BM)
        return y[:, self.count : self.count + length], MemoryState(*self.join(state, written_BMD), inner)

    def _writes(self, memory_BMD: Tensor) -> Tensor:
        """Return the input (B, M, D) of the write tokens."""
        return memory_BMD if self.writes_MD is None else self.writes_MD.to(memory_BMD.dtype).expand_as(memory_BMD)

    def _order(self, length: int, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the order of tokens with padding last, and the places of the write tokens.

        The order gives, for each place of [read, real x, write, padding], an index into [read, x, write].
        """
        places = torch.arange(length + 2 * self.count, device=lengths_B.device)
        writes_from = (lengths_B + self.count)[:, None]
        behind = places >= writes_from + self.count
        order = torch.where(behind, places - self.count, places)
        order = torch.where(~behind & (places >= writes_from), places - writes_from + self.count + length, order)
        return order, writes_from + torch.arange(self.count, device=lengths_B.device)

    def begin(self, state: MemoryState, batch_size: int, capacity: int) -> OpenMemory:
        cache = self.inner.begin(state.inner, batch_size, capacity + 2 * self.count)
        _, cache = self.inner.step(state.memory_BMD, cache)
        return OpenMemory(clone(state.memory_BMD), clone(state.valve), cache)

    def step(self, x_BTD: Tensor, cache: OpenMemory, lengths_B: Tensor | None = None) -> tuple[Tensor, OpenMemory]:
        y_BTD, inner = self.inner.step(x_BTD, cache.inner, lengths_B)
        return y_BTD, cache._replace(inner=inner)

    def end(self, cache: OpenMemory) -> MemoryState:
        written_BMD, inner = self.inner.step(self._writes(cache.memory_BMD), cache.inner)
        return MemoryState(*self.join(cache, written_BMD), self.inner.end(inner))

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, dropout=0.1)
        for valve in VALVES:
            yield cls(decoder(config, [DecoderLayer(config) for _ in range(2)]), 3, valve, valve_heads=2)
        yield cls(decoder(config, [DecoderLayer(config) for _ in range(2)]), 3, writes="learned")
        yield cls(DecoderLayer(config, prefix=3), 3)
