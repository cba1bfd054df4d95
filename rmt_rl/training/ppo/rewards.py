"""The rewards that PPO learns from."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

Normalized = Literal["large", "always", "never"]
"""When rewards are divided by the deviation of discounted returns; "large": where it is above 1."""
LEAST = {"large": 1.0, "always": 0.0}
"""The least divisor."""


class NormalizedRewards(VecNormalize):
    """Environments whose rewards are divided by the deviation of discounted returns, as it is so far.

    The loss of a value is of the order of its square. A network that acts and values in one would follow the values of
    large returns alone. Small returns stay as they are: amplified, their noise would have the same effect.

    Args:
        env: the environments.
        gamma: the discount factor of the returns.
        least: the least divisor.
    """

    def __init__(self, env: VecEnv, gamma: float, least: float) -> None:
        super().__init__(env, norm_obs=False, gamma=gamma)
        self.least = least

    def normalize_reward(self, reward: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the divided rewards (N,), clipped as `VecNormalize` clips them."""
        divisor = max(float(np.sqrt(self.ret_rms.var + self.epsilon)), self.least)
        clipped: NDArray[np.float32] = np.clip(reward / divisor, -self.clip_reward, self.clip_reward).astype(np.float32)
        return clipped
