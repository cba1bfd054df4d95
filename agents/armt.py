"""ARMT, Associative Recurrent Memory Transformer (arXiv 2407.04841): each layer keeps an associative matrix."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.associative import AssociativeMemory
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.recurrence import Stack


class ARMTConfig(DecoderConfig, AgentConfig):
    """Options of ARMT."""

    memory_tokens: int = Field(5, ge=1, description="number of memory tokens, which write a segment to the matrices")
    key_width: int = Field(16, ge=2, description="width of keys and queries")
    nu: int = Field(3, ge=1, description="products per channel in DPFP; a matrix has 2 x key_width x nu rows")


class ARMT(Agent):
    """Associative Recurrent Memory Transformer on the tokens of a trajectory."""

    Config = ARMTConfig

    def build_core(self, config: ARMTConfig) -> Stack:
        """Return decoder layers with associative matrices, and the final norm."""
        layers = [DecoderLayer(config) for _ in range(config.layers)]
        return decoder(config, [AssociativeMemory(layers, config.memory_tokens, config.key_width, config.nu)])


AGENT = ARMT
