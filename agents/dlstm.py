"""Decision LSTM (arXiv 2211.14655): a Decision Transformer with LSTM layers in place of attention."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.gated_rnn import GatedConfig, GatedLayer, LSTMLayer, gated_rnn
from rmt_rl.recurrence import Stack


class RNNConfig(GatedConfig, AgentConfig):
    """Options of agents with a gated recurrent net (LSTM or GRU)."""

    remember: int = Field(90, ge=1, description="longest memory of the initial gates, in steps (chrono initialisation)")


class DLSTM(Agent):
    """An agent whose LSTM reads the tokens of a trajectory one after the other."""

    Config = RNNConfig
    layer: ClassVar[type[GatedLayer[Any]]] = LSTMLayer

    def build_core(self, config: RNNConfig) -> Stack:
        """Return recurrent layers and a final norm."""
        return gated_rnn(self.layer, config, max(2, config.remember * len(self.tokens)))


AGENT = DLSTM
