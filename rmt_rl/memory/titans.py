"""Titans' three ways to join attention and a neural memory (arXiv 2501.00663): as context, as gate, as layer.

Attention is the short-term memory and `NeuralMemory` the long-term memory. The third is persistent memory: learned
tokens that every token of the attention sees (equation 19). Layers are pre-norm with residual connections (section
4.4).

Persistent tokens have no position. About half of the channels of a head, those that rotary positions rotate most
slowly, aren't rotated at all, and persistent keys have only these channels. So attention to persistent tokens depends
neither on a token's position nor on where segments begin.

Differences from the paper:

- Only attention sees the persistent tokens. Equations 26 and 29 pass them to the memory too, which would learn the same
  tokens in each segment.
- MAC's memory learns the residual stream plus attention's output, x + y. Equation 24 has y alone.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, P persistent tokens, N tokens of a window
before the present one, C capacity of a cache, D width, H heads, E width of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.memory.neural_memory import NeuralMemory, NeuralState
from rmt_rl.nn.attention import rotate, standing, turned_back
from rmt_rl.nn.decoder import Block, CacheT, DecoderConfig, KeyValues, StateT
from rmt_rl.nn.token_core import Core, Layers, TokenCore
from rmt_rl.recurrence import Stack, added_tokens, clone, consecutive_places, only_first, put_tokens_, take_tokens


class ScalingGate(nn.Module):
    """Scale attention's output y by the memory's answers m, both (B, L, D): y * 2 sigmoid(m), for equation 25.

    As in section 4.2, y and m are normalised with learned vectors (m by the memory itself) before the nonlinearity. The
    factor 2 makes a memory that answers zero change nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, y_BLD: Tensor, answers_BLD: Tensor) -> Tensor:
        normed: Tensor = self.norm(y_BLD.to(self.norm.weight.dtype))
        return normed * (2 * answers_BLD.sigmoid())


class MixingGate(ScalingGate):
    """Mix both: g y + (1 - g) m with g = sigmoid(u y + w m) and learned vectors u and w, for equation 28.

    In MAG only the gate outputs what is remembered, so the gate adds m itself. In the T-Maze (one run each), MAG then
    held what it had read for 320 segments, against 50 with `ScalingGate`. MAC, whose attention reads the memory too,
    learnt in half as many updates with `ScalingGate`.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.weights_2D = nn.Parameter(torch.zeros(2, width))

    def forward(self, y_BLD: Tensor, answers_BLD: Tensor) -> Tensor:
        y_BLD = self.norm(y_BLD.to(self.norm.weight.dtype))
        gate = torch.sigmoid(self.weights_2D[0] * y_BLD + self.weights_2D[1] * answers_BLD)
        return answers_BLD + gate * (y_BLD - answers_BLD)


class TitansBlock(Block[StateT, CacheT]):
    """Base class of the three layers: a neural memory and persistent tokens.

    Args:
        config: sizes.
        memory: the layer's own neural memory.
        persistent: P, the number of persistent tokens.

    Raises:
        UsageError: heads are narrower than 4 channels, too narrow to rotate one half of their channels.
    """

    def __init__(self, config: DecoderConfig, memory: NeuralMemory, persistent: int) -> None:
        super().__init__(config)
        if self.rotary and self.head_width < 4:
            raise UsageError(f"heads of width {self.head_width} are too narrow for Titans: make them 4 or wider")
        self.memory = memory
        self.persistent_PD = nn.Parameter(torch.randn(persistent, config.width))

    def rotations(self, places: int) -> Tensor:
        """Return the rotations of `Block`, but none for the slower half of the channel pairs."""
        table = super().rotations(places)
        turned = self._turned
        return torch.cat((table[:, :turned], standing(table[:, turned:])), 1)

    @property
    def _turned(self) -> int:
        """Return the number of channel pairs of a head that are rotated."""
        return self.head_width // 4 if self.rotary else 0

    def keys_values(self, x_BLD: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of `project`, without computing queries."""
        normed = self.attention_norm(x_BLD)
        keys = F.linear(normed, self.to_queries_keys.weight.chunk(2)[1])
        heads = (self.heads, self.head_width)
        return rotate(keys.unflatten(-1, heads), rotations), self.to_values(normed).unflatten(-1, heads)

    def opened(self, kept: KeyValues, capacity: int) -> KeyValues:
        """Return a cache of [persistent, kept, `capacity` new] tokens. Its count leaves out persistent tokens."""
        lanes, heads = kept.count_B.shape[0], (self.heads, self.head_width)
        keys, values = self.keys_values(self.persistent_PD[None], self.rotations(1)[:1])
        keys = F.pad(keys[..., 2 * self._turned :], (2 * self._turned, 0))
        rows = []
        for row, old in ((keys, kept.keys_BCHE), (values, kept.values_BCHE)):
            rows.append(torch.cat((row.expand(lanes, -1, -1, -1), old, old.new_zeros(lanes, capacity, *heads)), 1))
        return KeyValues(rows[0], rows[1], kept.count_B.clone())

    @classmethod
    def _examples(cls, width: int) -> Iterator[tuple[DecoderConfig, NeuralMemory]]:
        yield DecoderConfig(width=width, heads=2), NeuralMemory(width, chunk=6)
        yield DecoderConfig(width=width, heads=2, dropout=0.1), NeuralMemory(width, chunk=4, depth=1)


class OpenRetrieval(NamedTuple):
    """The cache of an open segment.

    It holds keys and values of [persistent, retrieved, segment], the memory before the segment, and the tokens that the
    memory will learn.
    """

    attended: KeyValues
    memory: NeuralState
    written_BCD: Tensor


class MemoryAsContext(TitansBlock[NeuralState, OpenRetrieval]):
    """MAC (section 4.1): attention sees what the memory retrieves for the segment, and decides what the memory learns.

    A token sees all persistent tokens, and the retrieved tokens and the segment's tokens up to its own place. Queries
    and gate read the memory as it was before the segment, so that nothing later is seen. The memory learns, one chunk
    at a time, when the segment ends.
    """

    def __init__(self, config: DecoderConfig, memory: NeuralMemory, persistent: int) -> None:
        super().__init__(config, memory, persistent)
        self.gate = ScalingGate(config.width)

    def initial_state(self, batch_size: int) -> NeuralState:
        return self.memory.initial_state(batch_size)

    def forward(self, x_BLD: Tensor, state: NeuralState, lengths_B: Tensor | None = None) -> tuple[Tensor, NeuralState]:
        y_BLD, cache = self.step(x_BLD, self._open(state, *x_BLD.shape[:2]), lengths_B)
        return y_BLD, self.memory.write(cache.written_BCD, cache.memory, lengths_B)

    def begin(self, state: NeuralState, batch_size: int, capacity: int) -> OpenRetrieval:
        return self._open(clone(state), batch_size, capacity)

    def _open(self, state: NeuralState, batch_size: int, capacity: int) -> OpenRetrieval:
        room = self.persistent_PD.new_zeros(batch_size, capacity, self.width)
        return OpenRetrieval(self.opened(self.open(batch_size, 0), 2 * capacity), state, room)

    def step(
        self, x_BTD: Tensor, cache: OpenRetrieval, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, OpenRetrieval]:
        keys, values, count_B = cache.attended
        persistent, capacity = len(self.persistent_PD), cache.written_BCD.shape[1]
        places_BT = consecutive_places(count_B, x_BTD.shape[1])
        turns = self.rotations(max(1, capacity))[places_BT]
        retrieved = self.memory.retrieve(x_BTD, cache.memory.weights)  # equation 21
        queries, own_keys, own_values = self.project(x_BTD, turns)
        old_keys, old_values = self.keys_values(retrieved, turns)
        # Equation 22; a retrieved token stands at the place of the token that queried it.
        both = torch.cat((places_BT, places_BT + capacity), 1) + persistent
        put_tokens_(keys, both, torch.cat((old_keys, own_keys), 1))
        put_tokens_(values, both, torch.cat((old_values, own_values), 1))
        own = torch.arange(capacity, device=x_BTD.device)
        mask = torch.cat((own.new_full((persistent,), -1), own, own)) <= places_BT[..., None]
        attended = self.attend(queries, keys.to(queries.dtype), values.to(queries.dtype), mask)
        y_BTD = self.dropout(self.from_heads(attended.flatten(-2)))  # equation 23
        written = put_tokens_(cache.written_BCD, places_BT, x_BTD + y_BTD)  # to be learnt, equation 24
        answers = self.memory.retrieve(x_BTD + y_BTD, cache.memory.weights)
        added = added_tokens(x_BTD.shape[1], lengths_B)
        seen = KeyValues(keys, values, count_B + added)
        joined = x_BTD + self.gate(y_BTD, answers)  # equation 25
        return self.feed(joined), OpenRetrieval(seen, cache.memory, written)

    def end(self, cache: OpenRetrieval) -> NeuralState:
        return self.memory.write(cache.written_BCD, cache.memory, cache.attended.count_B)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        for config, memory in cls._examples(width):
            yield cls(config, memory, persistent=2)


class WindowState(NamedTuple):
    """Keys and values of the window's last N tokens (in a cache: of all tokens), then zeros, and the memory."""

    window: KeyValues
    memory: NeuralState


Part = Callable[[Tensor, Any, Tensor | None], tuple[Tensor, Any]]


class SlidingWindowBlock(TitansBlock[WindowState, WindowState]):
    """Base class of MAG and MAL: attention over a window of `window` tokens, including the present one.

    The window continues across segments, so a token sees the same tokens however its sequence was cut. Places count
    from the oldest key that is kept, which is rotated to place 0.
    """

    def __init__(self, config: DecoderConfig, memory: NeuralMemory, persistent: int, window: int) -> None:
        super().__init__(config, memory, persistent)
        self.window = window

    @abstractmethod
    def join(
        self, x_BLD: Tensor, state: WindowState, remember: Part, attend: Part, lengths_B: Tensor | None
    ) -> tuple[Tensor, WindowState]:
        """Return the layer's output and next state; `remember` runs the memory, `attend` the attention."""

    def initial_state(self, batch_size: int) -> WindowState:
        return WindowState(self.open(batch_size, self.window - 1), self.memory.initial_state(batch_size))

    def forward(self, x_BLD: Tensor, state: WindowState, lengths_B: Tensor | None = None) -> tuple[Tensor, WindowState]:
        opened = WindowState(self.opened(state.window, x_BLD.shape[1]), state.memory)
        y_BLD, (window, memory) = self.join(x_BLD, opened, self.memory, self._look, lengths_B)
        return y_BLD, WindowState(self._keep(window), memory)

    def begin(self, state: WindowState, batch_size: int, capacity: int) -> WindowState:
        memory = self.memory.begin(state.memory, batch_size, capacity)
        return WindowState(self.opened(state.window, capacity), memory)

    def step(self, x_BTD: Tensor, cache: WindowState, lengths_B: Tensor | None = None) -> tuple[Tensor, WindowState]:
        return self.join(x_BTD, cache, self.memory.step, self._look, lengths_B)

    def end(self, cache: WindowState) -> WindowState:
        return WindowState(self._keep(cache.window), self.memory.end(cache.memory))

    def _look(self, x_BTD: Tensor, cache: KeyValues, lengths_B: Tensor | None) -> tuple[Tensor, KeyValues]:
        """Return the attention's output (B, T, H, E) for T more tokens, and the cache with these tokens."""
        keys, values, count_B = cache
        persistent = len(self.persistent_PD)
        places_BT = consecutive_places(count_B, x_BTD.shape[1])
        queries, own_keys, own_values = self.project(x_BTD, self.rotations(keys.shape[1])[places_BT])
        put_tokens_(keys, places_BT + persistent, own_keys)
        put_tokens_(values, places_BT + persistent, own_values)
        before = places_BT[..., None] + persistent - torch.arange(keys.shape[1], device=keys.device)
        mask = (before >= 0) & (before < self.window)
        mask[..., :persistent] = True
        attended = self.attend(queries, keys.to(queries.dtype), values.to(queries.dtype), mask)
        return attended, KeyValues(keys, values, count_B + added_tokens(x_BTD.shape[1], lengths_B))

    def _keep(self, cache: KeyValues) -> KeyValues:
        """Return the last N tokens, rotated back by the place of the oldest, followed by zeros."""
        kept, persistent = self.window - 1, len(self.persistent_PD)
        oldest_B = (cache.count_B - kept).clamp(min=0)
        places = persistent + consecutive_places(oldest_B, kept)
        back = turned_back(self.rotations(cache.keys_BCHE.shape[1])[oldest_B][:, None])
        kept_B = cache.count_B.clamp(max=kept)
        keys = only_first(rotate(take_tokens(cache.keys_BCHE, places), back), kept_B)
        return KeyValues(keys, only_first(take_tokens(cache.values_BCHE, places), kept_B), kept_B)


class MemoryAsGate(SlidingWindowBlock):
    """MAG (section 4.2): memory and sliding-window attention side by side, joined by a gate."""

    def __init__(self, config: DecoderConfig, memory: NeuralMemory, persistent: int, window: int) -> None:
        super().__init__(config, memory, persistent, window)
        self.gate = MixingGate(config.width)

    def join(
        self, x_BLD: Tensor, state: WindowState, remember: Part, attend: Part, lengths_B: Tensor | None
    ) -> tuple[Tensor, WindowState]:
        attended, window = attend(x_BLD, state.window, lengths_B)
        y_BLD = self.dropout(self.from_heads(attended.flatten(-2)))  # equation 27
        answers, memory = remember(x_BLD, state.memory, lengths_B)
        joined = x_BLD + self.gate(y_BLD, answers)  # equation 28
        return self.feed(joined), WindowState(window, memory)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        for window, (config, memory) in zip((5, 20), cls._examples(width), strict=True):
            yield cls(config, memory, 2, window)


class MemoryAsLayer(SlidingWindowBlock):
    """MAL (section 4.3): a layer of memory, then a layer of sliding-window attention."""

    def join(
        self, x_BLD: Tensor, state: WindowState, remember: Part, attend: Part, lengths_B: Tensor | None
    ) -> tuple[Tensor, WindowState]:
        answers, memory = remember(x_BLD, state.memory, lengths_B)
        x_BLD = x_BLD + self.dropout(answers)  # equation 30
        attended, window = attend(x_BLD, state.window, lengths_B)
        return self.finish(x_BLD, attended), WindowState(window, memory)  # equation 31

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        for window, (config, memory) in zip((5, 20), cls._examples(width), strict=True):
            yield cls(config, memory, 2, window)


def _token_core(layers: Layers, block: Callable[[DecoderConfig, NeuralMemory, int], Core]) -> Stack:
    """Return layers with a neural memory each, which learns a segment at a time."""

    def layer(config: DecoderConfig) -> Core:
        return block(config, NeuralMemory(config.width, layers.seq_len), layers.memory_tokens)

    return layers._replace(layer=layer).build_stack()


def _windowed_token_core(layers: Layers, block: type[SlidingWindowBlock]) -> Stack:
    """Return layers as `_token_core` does, which attend to a window as long as a segment."""
    return _token_core(layers, partial(block, window=layers.seq_len))


TOKEN_CORES = {
    "titans_mac": TokenCore(partial(_token_core, block=MemoryAsContext), streams=True),
    "titans_mag": TokenCore(partial(_windowed_token_core, block=MemoryAsGate), streams=True),
    "titans_mal": TokenCore(partial(_windowed_token_core, block=MemoryAsLayer), streams=True),
}
