"""Values of states and of actions, computed from a core's outputs, for learners that bootstrap.

Dimensions: (...) any leading ones, D width of the core's outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor, nn
from torch.func import functional_call

from rmt_rl.nn.space_encoder import encoder

SMALL = 0.1
"""Factor of the last layers' initial weights."""


class Critic(nn.Module):
    """A state value, two action values, and a target network: a slow copy of the action values.

    The minimum of the two copies is the target's value (clipped double Q-learning, arXiv 1802.09477). The copies are
    buffers: checkpoints hold them, and optimisers don't see them.

    Args:
        actions: the action space.
        width: D.
        hidden: width of the hidden layers.
    """

    def __init__(self, actions: Space[Any], width: int, hidden: int) -> None:
        super().__init__()
        self.state_value = _mlp(width, hidden, 1)
        self.twins = _Twins(actions, width, hidden)
        self._names = []
        for name, parameter in self.twins.named_parameters():
            self._names.append(name)
            self.register_buffer(_buffer(name), parameter.detach().clone())

    def value(self, y: Tensor) -> Tensor:
        """Return the values (...) of states, from outputs (..., D)."""
        value: Tensor = self.state_value(y)
        return value[..., 0]

    def action_values(self, y: Tensor, action: Any) -> tuple[Tensor, Tensor]:
        """Return two values (...) of actions (..., *shape) that are already scaled."""
        first, second = self.twins(y, action)
        return first, second

    @torch.no_grad()
    def target_value(self, y: Tensor, action: Any) -> Tensor:
        """Return the target network's value (...) of actions, without gradient."""
        copies = {name: self.get_buffer(_buffer(name)) for name in self._names}
        first, second = functional_call(self.twins, copies, (y, action))
        return torch.minimum(first, second)

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Move the target network towards the action values by this share of the distance (Polyak averaging)."""
        for name, parameter in self.twins.named_parameters():
            self.get_buffer(_buffer(name)).lerp_(parameter, rate)


def _buffer(name: str) -> str:
    """Return the name of the copy of a parameter; names of buffers have no dots."""
    return "target_" + name.replace(".", "_")


class _Twins(nn.Module):
    """Two action values of the same form."""

    def __init__(self, actions: Space[Any], width: int, hidden: int) -> None:
        super().__init__()
        self.first = _action_value(actions, width, hidden)
        self.second = _action_value(actions, width, hidden)

    def forward(self, y: Tensor, action: Any) -> tuple[Tensor, Tensor]:
        """Return both values (...)."""
        return self.first(y, action), self.second(y, action)


def _action_value(actions: Space[Any], width: int, hidden: int) -> nn.Module:
    if isinstance(actions, spaces.Discrete):
        return _OfEach(actions, width, hidden)
    return _OfEncoded(actions, width, hidden)


class _OfEach(nn.Module):
    """One output for each action of a Discrete space."""

    def __init__(self, actions: spaces.Discrete, width: int, hidden: int) -> None:
        super().__init__()
        self.start, self.last = int(actions.start), int(actions.n) - 1
        self.layers = _mlp(width, hidden, int(actions.n))

    def forward(self, y: Tensor, action: Tensor) -> Tensor:
        """Return the values (...) of actions, int64 (...); zeros of padding may lie outside the space."""
        index = (action - self.start).clamp(0, self.last)
        values: Tensor = self.layers(y)
        return values.gather(-1, index[..., None])[..., 0]


class _OfEncoded(nn.Module):
    """One output, from the core's output and the encoded action."""

    def __init__(self, actions: Space[Any], width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder(actions, width)
        self.layers = _mlp(2 * width, hidden, 1)

    def forward(self, y: Tensor, action: Any) -> Tensor:
        """Return the values (...) of actions (..., *shape)."""
        encoded = self.encoder(action)
        value: Tensor = self.layers(torch.cat((y, encoded), -1))
        return value[..., 0]


def _mlp(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return an MLP whose outputs begin near 0, so that the first advantages are no noise."""
    last = nn.Linear(hidden, outputs)
    with torch.no_grad():
        last.weight *= SMALL
        last.bias.zero_()
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)
