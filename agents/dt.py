"""Decision Transformer (arXiv 2106.01345): no memory, a sliding context of the last steps."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.sliding_context import SlidingContext
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder


class DTConfig(DecoderConfig, AgentConfig):
    """Options of the Decision Transformer."""

    context: int = Field(
        90, ge=1, description="largest number of steps in view, at a segment's end; at its start one segment less"
    )

    @model_validator(mode="after")
    def _whole_segment_in_view(self) -> Self:
        if self.context < self.segment_length:
            raise ValueError(f"context={self.context} is less than segment_length={self.segment_length}; raise context")
        return self


class DT(Agent):
    """Decision Transformer with rotary positions."""

    Config = DTConfig

    def build_core(self, config: DTConfig) -> SlidingContext:
        """Return a decoder over earlier segments and the open one, `context` steps in all."""
        before = max(0, config.context - config.segment_length) * len(self.tokens)
        return SlidingContext(decoder(config, [DecoderLayer(config) for _ in range(config.layers)]), before)


AGENT = DT
