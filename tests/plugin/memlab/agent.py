"""A decoder with a trace of earlier segments, the memory mechanism of this package."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder

from .trace import Trace


class TraceConfig(DecoderConfig, AgentConfig):
    """Options of the agent."""

    decay: float = Field(1.0, gt=0, le=1, description="share of the trace that is left after a segment")


class TraceAgent(Agent):
    """A trace around a decoder."""

    Config = TraceConfig

    def build_core(self, config: TraceConfig) -> Trace:
        """Return a trace around a decoder."""
        return Trace(decoder(config, [DecoderLayer(config) for _ in range(config.layers)]), config.decay)


AGENT = TraceAgent
