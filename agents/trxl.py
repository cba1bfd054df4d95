"""Transformer-XL (arXiv 1901.02860): each layer also attends to its cache of the tokens before the segment."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.transformer_xl import CacheName, RecurrenceName, TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig, decoder
from rmt_rl.recurrence import Stack


class TrXLConfig(DecoderConfig, AgentConfig):
    """Options of Transformer-XL."""

    cached: int = Field(90, ge=1, description="number of tokens in each layer's cache; a step has three")
    cache: CacheName = Field("hidden", description="content of the cache: hidden states, or their keys and values")
    stop_gradient: bool = Field(True, description="stop gradients at the cache, as in the paper")
    recurrence: RecurrenceName = Field(
        "ordinary", description="ordinary caches a layer's inputs, enhanced its outputs (ERNIE-Doc)"
    )


class TrXL(Agent):
    """Transformer-XL on the tokens of a trajectory.

    With ordinary recurrence, information reaches the open segment from at most `layers` caches before it.
    """

    Config = TrXLConfig

    def build_core(self, config: TrXLConfig) -> Stack:
        """Return a decoder whose layers each have a cache."""
        return decoder(config, [self.layer(config) for _ in range(config.layers)])

    def layer(self, config: Any) -> TransformerXLLayer:
        """Return one layer."""
        return TransformerXLLayer(config, config.cached, config.cache, config.stop_gradient, config.recurrence)


AGENT = TrXL
