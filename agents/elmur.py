"""ELMUR (arXiv 2510.07151): each layer keeps slots that its tokens read and each segment writes, the oldest first."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.elmur import ELMURLayer
from rmt_rl.nn.decoder import DecoderConfig, decoder
from rmt_rl.recurrence import Stack


class ELMURConfig(DecoderConfig, AgentConfig):
    """Options of ELMUR."""

    slots: int = Field(2, ge=1, description="slots of memory in each layer; a segment writes one of them")
    blend: float = Field(0.79, gt=0, le=1, description="share of the new content where a full slot is written again")
    distances: int = Field(512, ge=1, description="tokens of distance in time that are told apart")


class ELMUR(Agent):
    """External Layer Memory with Update and Rewrite on the tokens of a trajectory."""

    Config = ELMURConfig

    def build_core(self, config: ELMURConfig) -> Stack:
        """A decoder whose layers have memories."""
        return decoder(
            config, [ELMURLayer(config, config.slots, config.blend, config.distances) for _ in range(config.layers)]
        )


AGENT = ELMUR
