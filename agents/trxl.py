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

    cached: int = Field(90, ge=1, description="tokens of each layer's cache; a step gives three")
    cache: CacheName = Field("hidden", description="what is cached: hidden states, or the keys and values made of them")
    stop_gradient: bool = Field(True, description="no gradient goes through the cache, as in the paper")
    recurrence: RecurrenceName = Field("ordinary", description="enhanced: outputs are cached, not inputs (ERNIE-Doc)")


class TrXL(Agent):
    """Transformer-XL on the tokens of a trajectory.

    With the ordinary recurrence it knows what lies at most `layers` caches before the open segment.
    """

    Config = TrXLConfig

    def build_core(self, config: TrXLConfig) -> Stack:
        """A decoder whose layers have a cache each."""
        return decoder(config, [self.layer(config) for _ in range(config.layers)])

    def layer(self, config: Any) -> TransformerXLLayer:
        """One of its layers."""
        return TransformerXLLayer(config, config.cached, config.cache, config.stop_gradient, config.recurrence)


AGENT = TrXL
