"""RMT, Recurrent Memory Transformer (arXiv 2207.06881): memory tokens that each segment writes anew, no valve."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.tokens import MemoryTokens, Writes
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder


class RMTConfig(DecoderConfig, AgentConfig):
    """Options of RMT."""

    memory_tokens: int = Field(5, ge=1, description="number of memory tokens")
    writes: Writes = Field(
        "memory", description="input of the write tokens: the memory that the segment reads, or learned tokens"
    )


class RMT(Agent):
    """Recurrent Memory Transformer on the tokens of a trajectory: RATE without valve and cache."""

    Config = RMTConfig

    def build_core(self, config: RMTConfig) -> MemoryTokens:
        """Return memory tokens around a decoder."""
        layers = [DecoderLayer(config) for _ in range(config.layers)]
        return MemoryTokens(decoder(config, list(layers)), config.memory_tokens, writes=config.writes)


AGENT = RMT
