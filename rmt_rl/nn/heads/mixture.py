"""Mixtures of Gaussians: actions with several likely values, such as either full thrust, of which the mean is none.

Letters: S numbers of an action, K components.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rmt_rl.nn.heads.categorical import chosen_index
from rmt_rl.nn.heads.continuous import Continuous, wide
from rmt_rl.nn.heads.gaussian import HALF_LOG_2_PI, LOG_STD
from rmt_rl.nn.scaling import Scale

COMPONENTS = 5


class Mixture(Continuous):
    """A mixture of K components, each of independent normal distributions over the numbers of an action.

    The deterministic action is the mean of the likeliest component. Parameters of 0 spread the means evenly from -1 to
    1, so that the components begin apart.

    Args:
        space: the Box.
        scale: the scale of its actions; None scales nothing.
        components: K.
    """

    def __init__(self, space: spaces.Box, scale: Scale | None = None, components: int = COMPONENTS) -> None:
        super().__init__(space, scale)
        self.components = components
        self.size = components * (1 + 2 * self.count)

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        logits, means, log_stds = self._parts(numbers)
        target = self.targets(action, means[..., 0, :])[..., None, :]
        errors: Tensor = (target - means) * torch.exp(-log_stds)
        of_each_number = 0.5 * errors**2 + log_stds + HALF_LOG_2_PI
        of_components = logits.log_softmax(-1) - of_each_number.sum(-1)
        return -of_components.logsumexp(-1)

    def mode(self, numbers: Tensor) -> Tensor:
        logits, means, _ = self._parts(numbers)
        return _of_component(means, chosen_index(logits, None))

    def sample(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        logits, means, log_stds = self._parts(numbers)
        drawn = chosen_index(logits, generator)
        mean, log_std = _of_component(means, drawn), _of_component(log_stds, drawn)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (..., K), means (..., K, S) and log standard deviations (..., K, S)."""
        of_means = self.components * self.count
        logits, means, raw = wide(numbers).split([self.components, of_means, of_means], -1)
        sizes = (self.components, self.count)
        places = torch.linspace(-1, 1, self.components, device=numbers.device)[:, None]
        return logits, means.unflatten(-1, sizes) + places, raw.unflatten(-1, sizes).clamp(*LOG_STD)


def _of_component(values: Tensor, component: Tensor) -> Tensor:
    """Return the values (..., S) of one component each, from those of all (..., K, S)."""
    index = component[..., None, None].expand(*component.shape, 1, values.shape[-1])
    return values.gather(-2, index)[..., 0, :]
