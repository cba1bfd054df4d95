"""RATE: Recurrent Action Transformer with Memory (arXiv 2306.09459): memory tokens, retention valve, optional XL cache."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.memory.valve import ValveName
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder


class Config(DecoderConfig, AgentConfig):
    """Options of RATE."""

    memory_tokens: int = Field(5, ge=1, description="memory tokens")
    valve: ValveName = Field("ca-2", description="memory retention valve; none = plain memory tokens (RMT)")
    valve_heads: int = Field(2, ge=1, description="attention heads of the valves ca-1 and ca-2")
    reads: str = Field("causal", pattern="^(causal|free)$", description="whether read tokens see each other freely")
    cached: int = Field(0, ge=0, description="tokens of the Transformer-XL cache of hidden states; 0 = none")


class RATE(Agent):
    """Recurrent Action Transformer with Memory."""

    Config = Config

    def build_core(self, config: Config) -> MemoryTokens:
        """Memory tokens around a decoder."""
        prefix = config.memory_tokens if config.reads == "free" else 0
        layers = [
            TransformerXLLayer(config, config.cached) if config.cached else DecoderLayer(config, prefix)
            for _ in range(config.layers)
        ]
        return MemoryTokens(decoder(config, list(layers)), config.memory_tokens, config.valve, config.valve_heads)


AGENT = RATE
