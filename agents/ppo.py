"""PPO of Stable-Baselines3 (arXiv 1707.06347): learns by acting, without a memory."""

from __future__ import annotations

from pydantic import Field
from stable_baselines3 import PPO

from rmt_rl.sb3_agent import SB3Agent, SB3Config


class PPOConfig(SB3Config):
    """Options of PPO. All other options keep Stable-Baselines3's defaults."""

    batch_size: int = Field(64, ge=2, description="minibatch size in steps")
    n_epochs: int = Field(10, ge=1, description="number of epochs over each rollout")
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    clip_range: float = Field(0.2, gt=0, description="clipping range of the ratio of new to old probability")
    clip_range_vf: float | None = Field(None, gt=0, description="clipping range of value updates (unset: no clipping)")
    normalize_advantage: bool = Field(True, description="normalise advantages in each minibatch")
    ent_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, description="gradient norm above which gradients are clipped")
    target_kl: float | None = Field(None, gt=0, description="KL divergence that ends a rollout's epochs (unset: never)")


class PPOAgent(SB3Agent):
    """Proximal policy optimisation."""

    Config = PPOConfig
    Algorithm = PPO


AGENT = PPOAgent
