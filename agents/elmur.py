"""ELMUR (arXiv 2510.07151): each layer keeps memory slots; tokens read them, each segment rewrites the oldest."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.elmur import ELMURLayer
from rmt_rl.nn.decoder import DecoderConfig, decoder
from rmt_rl.recurrence import Stack


class ELMURConfig(DecoderConfig, AgentConfig):
    """Options of ELMUR."""

    slots: int = Field(2, ge=1, description="number of memory slots in each layer; a segment writes one of them")
    blend: float = Field(0.79, gt=0, le=1, description="weight of the new content when a written slot is rewritten")
    distances: int = Field(
        512, ge=1, description="distances in time (in tokens) that have their own bias; larger ones share the last"
    )


class ELMUR(Agent):
    """External Layer Memory with Update and Rewrite on the tokens of a trajectory."""

    Config = ELMURConfig

    def build_core(self, config: ELMURConfig) -> Stack:
        """Return a decoder whose layers have memories."""
        return decoder(
            config, [ELMURLayer(config, config.slots, config.blend, config.distances) for _ in range(config.layers)]
        )


AGENT = ELMUR
