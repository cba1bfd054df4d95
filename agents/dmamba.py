"""Decision Mamba (arXiv 2403.19925): a Decision Transformer with Mamba layers in place of attention."""

from __future__ import annotations

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.memory.mamba import MambaConfig, mamba
from rmt_rl.recurrence import Stack


class DMambaConfig(MambaConfig, AgentConfig):
    """Options of Decision Mamba."""


class DMamba(Agent):
    """An agent whose state space model reads the tokens of a trajectory one after the other."""

    Config = DMambaConfig

    def build_core(self, config: DMambaConfig) -> Stack:
        """Return Mamba layers and a final norm."""
        return mamba(config)


AGENT = DMamba
