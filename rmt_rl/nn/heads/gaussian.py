"""Gaussian actions: one normal distribution per dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rmt_rl.nn.heads.continuous import Continuous
from rmt_rl.nn.scaling import Scale

LOG_STD = (-5.0, 2.0)
"""Log standard deviations are clamped to this range, so that the loss of exact data is bounded below."""
HALF_LOG_2_PI = 0.5 * float(np.log(2 * np.pi))


class Gaussian(Continuous):
    """An independent normal distribution per dimension: mean and log standard deviation (clamped to -5 ... 2)."""

    def __init__(self, space: spaces.Box, scale: Scale | None = None) -> None:
        super().__init__(space, scale)
        self.size = 2 * self.count

    def _moments(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = numbers.split(self.count, -1)
        return mean, raw.clamp(*LOG_STD)

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        mean, log_std = self._moments(numbers)
        errors: Tensor = (self.targets(action, numbers) - mean) * torch.exp(-log_std)
        return (0.5 * errors**2 + log_std + HALF_LOG_2_PI).sum(-1)

    def entropy(self, numbers: Tensor) -> Tensor | None:
        _, log_std = self._moments(numbers)
        return (log_std + 0.5 + HALF_LOG_2_PI).sum(-1)

    def divergence(self, numbers: Tensor, others: Tensor) -> Tensor | None:
        mean, log_std = self._moments(numbers)
        other_mean, other_log_std = self._moments(others)
        errors = (mean - other_mean) * torch.exp(-other_log_std)
        ratio = log_std - other_log_std
        return (0.5 * (errors**2 + torch.exp(2 * ratio) - 1) - ratio).sum(-1)

    def mode(self, numbers: Tensor) -> Tensor:
        mean, _ = self._moments(numbers)
        return mean

    def sample(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = self._moments(numbers)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
