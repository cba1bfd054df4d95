"""Recurrent PPO of sb3-contrib: learns by acting, with an LSTM as memory."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from sb3_contrib import RecurrentPPO

from rmt_rl.agents.ppo import PPOConfig
from rmt_rl.sb3_agent import SB3Agent

EXTRA = "contrib"


class RecurrentPPOConfig(PPOConfig):
    """Options of recurrent PPO."""

    n_steps: int = Field(128, ge=2, description="steps of each environment in a rollout")
    batch_size: int = Field(128, ge=2, description="minibatch size in steps")
    lstm_hidden_size: int = Field(256, ge=1, description="width of the LSTM")
    n_lstm_layers: int = Field(1, ge=1, description="number of LSTM layers")
    shared_lstm: bool = Field(False, description="policy and value share one LSTM, not trained by the value loss")
    enable_critic_lstm: bool = Field(True, description="the value has its own LSTM")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.shared_lstm and self.enable_critic_lstm:
            raise ValueError("shared_lstm=True and enable_critic_lstm=True exclude each other: set one to False")
        return self


class RecurrentPPOAgent(SB3Agent):
    """Proximal policy optimisation with an LSTM, whose hidden and cell state are the state of `predict`."""

    Config = RecurrentPPOConfig
    Algorithm = RecurrentPPO
    policy_kind = "LstmPolicy"


AGENT = RecurrentPPOAgent
