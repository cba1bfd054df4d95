"""What the three Titans agents share: options, and the neural memory of a layer."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rmt_rl.agent import AgentConfig
from rmt_rl.errors import UsageError
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.nn.decoder import DecoderConfig


class TitansConfig(DecoderConfig, AgentConfig):
    """Options of every Titans agent."""

    memory_depth: int = Field(2, ge=1, le=4, description="matrices of each layer's neural memory; 1 = linear")
    memory_factor: float = Field(1.0, gt=0, description="hidden width of a memory of depth 2 or more / width")
    chunk: int | None = Field(
        None,
        ge=1,
        description="tokens that the memory learns together, and that it answers from what it learnt before them; "
        "unset = a segment",
    )
    forgetting: float = Field(
        1e-6,
        ge=1e-12,
        le=0.999,
        description="share that the memory forgets with each token at first; it learns to forget more",
    )
    persistent_tokens: int = Field(4, ge=1, description="learned tokens that every attention sees")

    @model_validator(mode="after")
    def _heads_can_turn_by_half(self) -> Self:
        head_width = self.head_width or self.width // self.heads
        if head_width < 4:
            raise ValueError(
                f"heads={self.heads}, width={self.width}: heads of width {head_width} are too narrow for "
                "rotary positions on half of their channels; make them 4 or wider"
            )
        return self

    def memory(self, segment: int) -> NeuralMemory:
        """A layer's memory, in an agent whose segments have this many tokens.

        Raises:
            UsageError: a chunk is longer than a segment.
        """
        chunk = self.chunk or segment
        if chunk > segment:
            raise UsageError(
                f"chunk={chunk} is more than the {segment} tokens of a segment (segment_length={self.segment_length}), "
                "so that what a segment teaches might never be read in training: lower chunk or lengthen segments"
            )
        return NeuralMemory(self.width, chunk, self.memory_depth, self.memory_factor, self.forgetting)


class WindowConfig(TitansConfig):
    """Options of those with a sliding window."""

    window: int | None = Field(
        None,
        ge=1,
        description="tokens that attention sees, the present one included; below `chunk` some are seen neither there "
        "nor in the memory; unset = a segment",
    )
