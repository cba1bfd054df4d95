"""Our memories, as they are measured.

Dimensions: B lanes, L tokens of a row of segments, T of a step call, K tokens of a segment, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.speed.peer_sizes import (
    CHUNK,
    CONTEXT_LAYERS,
    CONTEXT_SEGMENT,
    DEPTH,
    HEAD_WIDTH,
    HEADS,
    HIDDEN_FACTOR,
    MEMORY_SEGMENT,
    MEMORY_TOKENS,
    PERSISTENT,
    TOKEN_LAYERS,
    TOKEN_SEGMENT,
    VOCABULARY,
    WIDTH,
    Contestant,
    Generate,
    vectors,
)
from rmt_rl import backprop
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.memory.titans import MemoryAsContext
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.recurrence import OpenSegment, SegmentRecurrent, clone

Core = SegmentRecurrent[Any, Any]
GRADIENTS: Mapping[str, Callable[..., Any]] = {"full": backprop.full, "replay": backprop.replay}


class Ours(Contestant):
    """What our contestants share: segments one after the other, and the two ways of backpropagation.

    Args:
        core: the mechanism.
        segment: K.
    """

    gradients = ("full", "replay")

    def __init__(self, core: Core, segment: int) -> None:
        super().__init__()
        self.core, self.segment = core, segment

    @abstractmethod
    def loss(self, data: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        """The loss of the segment that starts at this token, and the next state."""

    @abstractmethod
    def generate(self, core: Core, count: int) -> None:
        """Make so many tokens by `core`, which is the own or one that computes the same in another way."""

    def answer(self, part: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The output for one segment, and the next state."""
        return cast(tuple[Tensor, Any], self.core(part, state))

    def backward(self, data: Tensor, gradient: str) -> None:
        segments = data.shape[1] // self.segment  # token rows have one token more, the last target

        def step(index: int, state: Any) -> tuple[Tensor, Any]:
            loss, state = self.loss(data, index * self.segment, state)
            return loss / segments, state

        GRADIENTS[gradient](step, segments, self.core.initial_state(len(data)), Tensor.backward)

    def look(self, data: Tensor) -> Tensor:
        state, answers = self.core.initial_state(len(data)), []
        for part in data.split(self.segment, 1):
            answer, state = self.answer(part, state)
            answers.append(answer)
        return torch.cat(answers, 1)

    def ways(self) -> dict[str, Generate]:
        cores = {"step": self.core, "recomputing": Recomputing(self.core), "base class": Padded(self.core)}
        return {name: partial(self.generate, core) for name, core in cores.items()}


class OurLanguageModel(Ours):
    """Tokens in, logits of the next token out, around any core."""

    def __init__(self, core: Core, segment: int) -> None:
        super().__init__(core, segment)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def answer(self, part: Tensor, state: Any) -> tuple[Tensor, Any]:
        y_BKD, state = self.core(self.embed(part), state)
        return self.head(y_BKD), state

    def loss(self, data: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        part = data[:, start : start + self.segment + 1]
        logits, state = self.answer(part[:, :-1], state)
        return F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()), state

    def generate(self, core: Core, count: int) -> None:
        token, state = torch.zeros(1, 1, dtype=torch.long), core.initial_state(1)
        for start in range(0, count, self.segment):
            cache = core.begin(state, 1, self.segment)
            for _ in range(min(self.segment, count - start)):
                y_BTD, cache = core.step(self.embed(token), cache)
                token = self.head(y_BTD[:, -1]).softmax(-1).multinomial(1)
            state = core.end(cache)


class OurNeuralMemory(Ours):
    """The neural memory alone, on vectors."""

    def loss(self, data: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        y_BKD, state = self.answer(data[:, start : start + self.segment], state)
        return y_BKD.square().mean(), state

    def generate(self, core: Core, count: int) -> None:
        data = vectors(count)[:1]
        cache = core.begin(core.initial_state(1), 1, count)
        for token in data.split(1, 1):
            _, cache = core.step(token, cache)
        core.end(cache)


class Padded(Core):
    """A core by the base class's `begin`, `step` and `end`: every step runs a whole segment, padding included."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.core, self.width = core, core.width

    def initial_state(self, batch_size: int) -> Any:
        return self.core.initial_state(batch_size)

    def forward(self, x_BLD: Tensor, state: Any, lengths_B: Tensor | None = None) -> tuple[Tensor, Any]:
        return cast(tuple[Tensor, Any], self.core(x_BLD, state, lengths_B))


class Recomputing(Padded):
    """The cheapest recomputing, of lanes in lock-step: every step runs the segment's tokens so far."""

    def begin(self, state: Any, batch_size: int, capacity: int) -> OpenSegment:
        opened: OpenSegment = super().begin(state, batch_size, 0)
        return opened

    def step(self, x_BTD: Tensor, cache: OpenSegment, lengths_B: Tensor | None = None) -> tuple[Tensor, OpenSegment]:
        tokens = torch.cat((cache.tokens_BLD, x_BTD), 1)
        y_BLD, _ = self(tokens, cache.state)
        return y_BLD[:, -x_BTD.shape[1] :], cache._replace(tokens_BLD=tokens)

    def end(self, cache: OpenSegment) -> Any:
        return self(cache.tokens_BLD, clone(cache.state))[1]


# The contestants


def our_memory_tokens() -> Ours:
    """Memory tokens around a decoder."""
    config = DecoderConfig(layers=TOKEN_LAYERS, width=WIDTH, heads=HEADS, head_width=HEAD_WIDTH)
    layers: list[Core] = [DecoderLayer(config) for _ in range(config.layers)]
    return OurLanguageModel(MemoryTokens(decoder(config, layers), MEMORY_TOKENS), TOKEN_SEGMENT)


def our_context() -> Ours:
    """Layers with memory as context."""
    config = DecoderConfig(layers=CONTEXT_LAYERS, width=WIDTH, heads=HEADS, head_width=HEAD_WIDTH)
    memories = [NeuralMemory(WIDTH, CONTEXT_SEGMENT, DEPTH, HIDDEN_FACTOR) for _ in range(config.layers)]
    layers: list[Core] = [MemoryAsContext(config, memory, PERSISTENT) for memory in memories]
    return OurLanguageModel(decoder(config, layers), CONTEXT_SEGMENT)


def our_neural_memory() -> Ours:
    """The neural memory alone."""
    return OurNeuralMemory(NeuralMemory(WIDTH, CHUNK, DEPTH, HIDDEN_FACTOR), MEMORY_SEGMENT)
