"""Categorical actions over evenly spaced bins between the bounds of a Box, for actions with several likely values.

Letters: S numbers of an action, N bins of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from rmt_rl.nn.heads.categorical import chosen_index, divergence_of, entropy_of
from rmt_rl.nn.heads.continuous import Continuous, wide
from rmt_rl.nn.scaling import Scale

BINS = 41
NARROWEST = 1e-30
"""Bounds that are closer together hold one action."""


class Bins(Continuous):
    """A softmax over N bins for each number of a Box. The bins' middles are evenly spaced, from bound to bound.

    The loss is a cross entropy in nats: the target of an action gives the two bins around it probabilities that sum to
    1 and whose mean is the action. So its least value is the entropy of that target, 0 at a bin's middle and log 2
    between two. The deterministic action is the mean over the likeliest bin and its two neighbours. Samples are spread
    evenly over the bin that is drawn.

    Args:
        space: the Box; all its numbers have bounds.
        scale: not needed, since bins lie between bounds: the unit of actions is that in which these are -1 and 1.
        bins: N.
    """

    needs_bounds = True

    def __init__(self, space: spaces.Box, scale: Scale | None = None, bins: int = BINS) -> None:
        super().__init__(space, scale)
        self.own_scale = _scale_between_bounds(space)
        self.bins = bins
        self.size = self.count * bins

    def loss(self, numbers: Tensor, action: Any) -> Tensor:
        log_probabilities = self._split(numbers).log_softmax(-1)
        place = self._place(action, log_probabilities)
        lower = place.floor().clamp(max=self.bins - 2)
        weight_of_upper = place - lower
        first = lower.long()
        bins_around = torch.stack([first, first + 1], -1)
        weights = torch.stack([1 - weight_of_upper, weight_of_upper], -1)
        of_target = log_probabilities.gather(-1, bins_around)
        return -(weights * of_target).sum((-1, -2))

    def chosen_loss(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        log_probabilities = self._split(numbers).log_softmax(-1)
        actions = chosen.reshape(*numbers.shape[:-1], *self.space.shape)
        bins = self._place(actions, log_probabilities).round().long()
        return -log_probabilities.gather(-1, bins[..., None]).sum((-1, -2))

    def divergence(self, numbers: Tensor, others: Tensor) -> Tensor | None:
        return divergence_of(self._split(numbers), self._split(others)).sum(-1)

    def entropy(self, numbers: Tensor) -> Tensor | None:
        return entropy_of(self._split(numbers)).sum(-1)

    def mode(self, numbers: Tensor) -> Tensor:
        probabilities = self._split(numbers).softmax(-1)
        padded = F.pad(probabilities, (1, 1))  # the outermost bins lack a neighbour
        likeliest = probabilities.argmax(-1, keepdim=True)
        steps = torch.arange(3, device=numbers.device)
        around = padded.gather(-1, likeliest + steps)
        offset = (around * (steps - 1)).sum(-1) / around.sum(-1)
        return self._middle(likeliest[..., 0] + offset)

    def sample(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        drawn = chosen_index(self._split(numbers), generator)
        spread = torch.rand(drawn.shape, generator=generator, device=drawn.device)
        return self._middle(drawn + spread - 0.5).clamp(-1, 1)

    def scale_on(self, device: torch.device) -> Scale:
        if self.own_scale.shift.device != device:
            self.own_scale.to(device)
        return self.own_scale

    def _split(self, numbers: Tensor) -> Tensor:
        """Return the logits (..., S, N) of each number's bins."""
        logits: Tensor = wide(numbers).unflatten(-1, (self.count, self.bins))
        return logits

    def _place(self, action: Tensor, log_probabilities: Tensor) -> Tensor:
        """Return the places (..., S) of actions among the bins, from 0 to N - 1."""
        bounded = self.targets(action, log_probabilities[..., 0]).clamp(-1, 1)
        place: Tensor = (bounded + 1) / 2 * (self.bins - 1)
        return place

    def _middle(self, place: Tensor) -> Tensor:
        """Return the scaled action at a place among the bins, from 0 to N - 1."""
        return 2 * place / (self.bins - 1) - 1


def _scale_between_bounds(space: spaces.Box) -> Scale:
    """Return the scale that maps the bounds of a Box to -1 and 1."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    middle, half = (low + high) / 2, (high - low) / 2
    scale = Scale(space.shape)
    scale.set(middle, np.where(half > NARROWEST, half, 1.0))
    return scale
