"""Behaviour cloning with an MLP: sees only the present observation; a baseline that any memory must beat."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.recurrence import Pointwise


class BCConfig(AgentConfig):
    """Options of behaviour cloning."""

    hidden: int = Field(256, ge=1, description="width of the hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the hidden layer")


class BC(Agent):
    """An MLP on the encoded observation, not conditioned on returns."""

    Config = BCConfig
    tokens = ("observation",)

    def build_core(self, config: BCConfig) -> Pointwise:
        """Return an MLP with two hidden layers."""
        return Pointwise(
            nn.Sequential(
                nn.GELU(),
                nn.Linear(config.width, config.hidden),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.width),
                nn.GELU(),
            ),
            config.width,
        )


AGENT = BC
