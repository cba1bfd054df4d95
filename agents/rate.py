"""RATE, Recurrent Action Transformer with Memory (arXiv 2306.09459): memory tokens, valve, optional XL cache."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.tokens import MemoryTokens, Writes
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.memory.valve import ValveName
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder


class RATEConfig(DecoderConfig, AgentConfig):
    """Options of RATE."""

    memory_tokens: int = Field(5, ge=1, description="number of memory tokens")
    valve: ValveName = Field("ca-2", description="memory retention valve; none = plain memory tokens (RMT)")
    valve_heads: int = Field(2, ge=1, description="number of attention heads of the valves ca-1 and ca-2")
    reads: Literal["causal", "free"] = Field(
        "causal", description="attention between read tokens; free: all see each other (not with an XL cache)"
    )
    writes: Writes = Field(
        "memory", description="input of the write tokens: the memory that the segment reads, or learned tokens"
    )
    cached: int = Field(0, ge=0, description="tokens in each layer's Transformer-XL cache of hidden states; 0 = none")

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if self.cached and self.reads == "free":
            raise ValueError("reads=free has no Transformer-XL cache: choose reads=causal or cached=0")
        return self


class RATE(Agent):
    """Recurrent Action Transformer with Memory."""

    Config = RATEConfig

    def build_core(self, config: RATEConfig) -> MemoryTokens:
        """Return memory tokens around a decoder."""
        prefix = config.memory_tokens if config.reads == "free" else 0
        layers = [
            TransformerXLLayer(config, config.cached) if config.cached else DecoderLayer(config, prefix)
            for _ in range(config.layers)
        ]
        inner = decoder(config, list(layers))
        return MemoryTokens(inner, config.memory_tokens, config.valve, config.valve_heads, config.writes)


AGENT = RATE
