"""The memories of the two packages, as they are measured.

Dimensions: B sequences of a batch, L tokens of a row of segments, D width.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import cast

import torch
from recurrent_memory_transformer_pytorch import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper
from titans_pytorch import MemoryAsContextTransformer, NeuralMemory
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

warnings.filterwarnings("ignore", message=".*sdp_kernel.*", category=FutureWarning)  # of the older package
MODEL = {"depth": DEPTH, "expansion_factor": HIDDEN_FACTOR}  # the memory's


class TheirMemoryTokens(Contestant):
    """recurrent-memory-transformer-pytorch, by its fused attention, which is the faster of its two."""

    gradients = ("full", "replay")

    def __init__(self) -> None:
        super().__init__()
        transformer = RecurrentMemoryTransformer(
            WIDTH,
            num_tokens=VOCABULARY,
            depth=TOKEN_LAYERS,
            num_memory_tokens=MEMORY_TOKENS,
            seq_len=TOKEN_SEGMENT,
            heads=HEADS,
            dim_head=HEAD_WIDTH,
            use_flash_attn=True,
            use_xl_memories=False,
            num_residual_streams=1,
        )
        self.model = RecurrentMemoryTransformerWrapper(transformer)

    def backward(self, data: Tensor, gradient: str) -> None:
        if gradient == "replay":
            self.model(data, memory_replay_backprop=True)
        else:
            self.model(data, return_loss=True)[0].backward()

    def look(self, data: Tensor) -> Tensor:
        return cast("Tensor", self.model(data)[0])

    def ways(self) -> dict[str, Generate]:
        first = torch.zeros(1, 1, dtype=torch.long)
        return {"generate": lambda count: self.model.generate(first, length=1 + count)}


class TheirNeural(Contestant):
    """titans-pytorch's neural memory alone.

    Args:
        relearn: whether surprises are taken at what the memory has learnt, chunk by chunk, as the paper and we do;
            else at its first weights for ever, its default.
    """

    def __init__(self, relearn: bool) -> None:
        super().__init__()
        self.model = NeuralMemory(
            WIDTH, chunk_size=CHUNK, batch_size=CHUNK if relearn else None, default_model_kwargs=MODEL
        )

    def backward(self, data: Tensor, gradient: str) -> None:
        self.look(data).square().mean().backward()

    def look(self, data: Tensor) -> Tensor:
        state, answers = None, []
        for part in data.split(MEMORY_SEGMENT, 1):
            answer, state = self.model(part, state=state)
            answers.append(answer)
        return torch.cat(answers, 1)

    def ways(self) -> dict[str, Generate]:
        return {"state": self._generate}

    def _generate(self, count: int) -> None:
        state = None
        for token in vectors(count)[:1].split(1, 1):
            _, state = self.model(token, state=state)


class TheirContext(Contestant):
    """titans-pytorch's transformer with memory as context.

    Args:
        relearn: as in `TheirNeural`, segment by segment.
    """

    def __init__(self, relearn: bool) -> None:
        super().__init__()
        self.model = MemoryAsContextTransformer(
            num_tokens=VOCABULARY,
            dim=WIDTH,
            depth=CONTEXT_LAYERS,
            segment_len=CONTEXT_SEGMENT,
            num_persist_mem_tokens=PERSISTENT,
            heads=HEADS,
            dim_head=HEAD_WIDTH,
            num_residual_streams=1,
            neural_memory_batch_size=CONTEXT_SEGMENT if relearn else None,
            neural_memory_kwargs={"default_model_kwargs": MODEL},
        )

    def backward(self, data: Tensor, gradient: str) -> None:
        self.model(data, return_loss=True).backward()

    def look(self, data: Tensor) -> Tensor:
        return cast("Tensor", self.model(data))

    def ways(self) -> dict[str, Generate]:
        return {"cache": partial(self._generate, True), "no cache": partial(self._generate, False)}

    def _generate(self, use_cache: bool, count: int) -> None:
        first = torch.zeros(1, 1, dtype=torch.long)
        self.model.sample(first, 1 + count, show_progress=False, use_cache=use_cache)
