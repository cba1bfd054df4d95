"""Options and the neural memory of a layer, shared by the three Titans agents."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rmt_rl.agent import AgentConfig
from rmt_rl.errors import UsageError
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.nn.decoder import DecoderConfig


class TitansConfig(DecoderConfig, AgentConfig):
    """Options of every Titans agent."""

    memory_depth: int = Field(2, ge=1, le=4, description="number of matrices in each layer's neural memory; 1 = linear")
    memory_factor: float = Field(1.0, gt=0, description="hidden width of the neural memory / width (depth 2 or more)")
    chunk: int | None = Field(
        None,
        ge=1,
        description="number of tokens that the memory learns together; it answers them from what it learnt before; "
        "unset = a segment",
    )
    forgetting: float = Field(
        1e-6,
        ge=1e-12,
        le=0.999,
        description="share that the memory forgets with each token initially; it can learn to forget more",
    )
    persistent_tokens: int = Field(4, ge=1, description="number of learned tokens that attention sees in every layer")

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
        """Return a layer's memory for segments of `segment` tokens.

        Raises:
            UsageError: a chunk is longer than a segment.
        """
        chunk = self.chunk or segment
        if chunk > segment:
            raise UsageError(
                f"chunk={chunk} is more than the {segment} tokens of a segment (segment_length={self.segment_length}), "
                "so training might never read what the memory learns: lower chunk or raise segment_length"
            )
        return NeuralMemory(self.width, chunk, self.memory_depth, self.memory_factor, self.forgetting)


class WindowConfig(TitansConfig):
    """Options of the Titans agents with a sliding window."""

    window: int | None = Field(
        None,
        ge=1,
        description="number of tokens that attention sees, including the present one; if below `chunk`, some tokens "
        "are seen neither by attention nor in the memory; unset = a segment",
    )
