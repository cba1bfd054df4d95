"""Memory tokens around any core: read before the segment, written after it (RMT, RATE).

RMT (arXiv 2207.06881), equations 4 and 5: the core runs over [M_n; X; M_n], and its output at the last M places is
the new memory M_{n+1}: what a segment writes is what the next one reads and also where the next one's writing begins.
With `writes="learned"` this second way, from write tokens to the next write tokens, is cut: the core runs over
[M_n; X; W] with W learned, and what is written knows the old memory by attention only.

The tokens lie in one causal row without masks: [read, real tokens, write, padding], so that fused causal kernels serve,
padding can't be seen and writing comes right behind a lane's last real token.

Dimensions: B lanes, L tokens of a segment, M memory tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from rmt_rl.memory.valve import VALVES, ValveName
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.recurrence import CacheT, SegmentRecurrent, Tree, clone, take_tokens

Writes = Literal["memory", "learned"]


class MemoryState(NamedTuple):
    """The memory (B, M, D), what the valve carries, and the inner core's state."""

    memory_BMD: Tensor
    valve: Tree
    inner: Tree


class OpenMemory(NamedTuple):
    """The memory as it was read, the valve's state, and the inner core's cache."""

    memory_BMD: Tensor
    valve: Tree
    inner: Tree


class LearnedMemory(SegmentRecurrent[MemoryState, CacheT]):
    """A core with a memory of M vectors, learned ones at first, and a valve that joins old and new ones.

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
        # Random and not zero: equal tokens would get equal gradients and stay one token for ever.
        self.memory_MD = nn.Parameter(torch.randn(count, inner.width) * 0.5)
        self.valve = VALVES[valve](inner.width, valve_heads)

    def join(self, state: MemoryState | OpenMemory, written_BMD: Tensor) -> tuple[Tensor, Tree]:
        """The next memory, of the one that was read and what was written, and the valve's next state.

        In the weights' precision, under autocast too: a memory that is rounded in every segment drifts, and what
        changes it little is lost.
        """
        dtype = self.memory_MD.dtype
        with torch.autocast(written_BMD.device.type, enabled=False):
            memory_BMD, valve = self.valve(state.memory_BMD.to(dtype), written_BMD.to(dtype), state.valve)
        return memory_BMD, valve

    def initial_state(self, batch_size: int) -> MemoryState:
        memory_BMD = self.memory_MD.expand(batch_size, -1, -1)
        return MemoryState(memory_BMD, self.valve.initial_state(memory_BMD), self.inner.initial_state(batch_size))


class MemoryTokens(LearnedMemory[OpenMemory]):
    """Wraps a causal core with M memory tokens.

    Args:
        inner, count, valve, valve_heads: see `LearnedMemory`.
        writes: where a segment's write tokens begin: at the memory that it reads, or at learned tokens of their own.
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
        """Where the write tokens begin (B, M, D)."""
        return memory_BMD if self.writes_MD is None else self.writes_MD.to(memory_BMD.dtype).expand_as(memory_BMD)

    def _order(self, length: int, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Which of [read, x, write] comes at each place of [read, real x, write, padding]; and where it writes."""
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
