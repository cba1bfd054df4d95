"""Our memories, as they are measured.

Dimensions: B sequences of a batch, L tokens of a row of segments, T of a step call, K tokens of a segment, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

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
from rmt_rl import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper, backprop
from rmt_rl.language.model import Output
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.memory.titans import MemoryAsContext
from rmt_rl.nn.decoder import DecoderConfig, decoder
from rmt_rl.recurrence import OpenSegment, SegmentRecurrent, clone

Core = SegmentRecurrent[Any, Any]
GRADIENTS: Mapping[str, Callable[..., Any]] = {"full": backprop.full, "replay": backprop.replay}


class Ours(Contestant):
    """Base of our contestants: two ways of backpropagation, and three of generating token by token."""

    gradients = tuple(GRADIENTS)
    core: Core

    @abstractmethod
    def generate(self, core: Core, count: int) -> None:
        """Make so many tokens by `core`, which is the own or one that computes the same in another way."""

    def ways(self) -> dict[str, Generate]:
        cores = {"step": self.core, "recomputing": Recomputing(self.core), "base class": Padded(self.core)}
        return {name: partial(self.generate, core) for name, core in cores.items()}


class OurLanguageModel(Ours):
    """`rmt_rl.RecurrentMemoryTransformer`: tokens in, logits of the next token out."""

    def __init__(self, model: RecurrentMemoryTransformer) -> None:
        super().__init__()
        self.core, self.model = model.core, RecurrentMemoryTransformerWrapper(model)

    def backward(self, data: Tensor, gradient: str) -> None:
        replays = gradient == "replay"
        loss = cast("Tensor", self.model(data, return_loss=True, memory_replay_backprop=replays))
        if not replays:
            loss.backward()

    def look(self, data: Tensor) -> Tensor:
        return cast("Output", self.model(data)).output

    def generate(self, core: Core, count: int) -> None:
        self.model.transformer.core = core
        try:
            self.model.generate(torch.zeros(1, 1, dtype=torch.long), length=1 + count)
        finally:
            self.model.transformer.core = self.core


class OurNeuralMemory(Ours):
    """The neural memory alone, on vectors, segments one after the other."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.core = core

    def backward(self, data: Tensor, gradient: str) -> None:
        parts = data.split(MEMORY_SEGMENT, 1)

        def step(index: int, state: Any) -> tuple[Tensor, Any]:
            y_BKD, state = self.core(parts[index], state)
            return y_BKD.square().mean() / len(parts), state

        GRADIENTS[gradient](step, len(parts), self.core.initial_state(len(data)), Tensor.backward)

    def look(self, data: Tensor) -> Tensor:
        state, answers = self.core.initial_state(len(data)), []
        for part in data.split(MEMORY_SEGMENT, 1):
            answer, state = self.core(part, state)
            answers.append(answer)
        return torch.cat(answers, 1)

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
        return cast("tuple[Tensor, Any]", self.core(x_BLD, state, lengths_B))


class Recomputing(Padded):
    """The cheapest recomputing, of sequences in lock-step: every step runs the segment's tokens so far."""

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
    """Return memory tokens around a decoder."""
    return OurLanguageModel(_language_model(TOKEN_LAYERS, MEMORY_TOKENS, TOKEN_SEGMENT))


def our_context() -> Ours:
    """Return layers with memory as context, whose memories are as deep and wide as theirs."""
    model = _language_model(CONTEXT_LAYERS, PERSISTENT, CONTEXT_SEGMENT)
    config = DecoderConfig(layers=CONTEXT_LAYERS, width=WIDTH, heads=HEADS, head_width=HEAD_WIDTH)
    memories = [NeuralMemory(WIDTH, CONTEXT_SEGMENT, DEPTH, HIDDEN_FACTOR) for _ in range(config.layers)]
    layers: list[Core] = [MemoryAsContext(config, memory, PERSISTENT) for memory in memories]
    model.core = decoder(config, layers)
    return OurLanguageModel(model)


def our_neural_memory() -> Ours:
    """Return the neural memory alone."""
    return OurNeuralMemory(NeuralMemory(WIDTH, CHUNK, DEPTH, HIDDEN_FACTOR))


def _language_model(depth: int, memory_tokens: int, segment: int) -> RecurrentMemoryTransformer:
    return RecurrentMemoryTransformer(
        WIDTH,
        num_tokens=VOCABULARY,
        depth=depth,
        num_memory_tokens=memory_tokens,
        seq_len=segment,
        heads=HEADS,
        dim_head=HEAD_WIDTH,
    )
