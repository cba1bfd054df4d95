"""GTrXL (arXiv 1910.06764): Transformer-XL layers with gates in place of residual sums.

Identity map reordering: a submodule's input is normalised and its output passes through a ReLU, so that the residual
stream runs from the first to the last layer untouched. A gate g(x, y) then joins the stream x and the submodule's
output y. The formulas are in section 3.2, "Gating Layers". The bias b starts at 2, so that a layer starts near the
identity.

Dimensions: B batch elements, L tokens of a segment, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from rmt_rl.memory.transformer_xl import CacheName, RecurrenceName, TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig, Residual

GateName = Literal["gru", "output", "highway", "input", "sigmoid-tanh"]


class ResidualGate(Residual, ABC):
    """Base class of all gates: a ReLU on the submodule's output, then g(x, y), which subclasses implement as `join`."""

    def forward(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        return self.join(x_BLD, y_BLD.relu())

    @abstractmethod
    def join(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        """Return g(x, y); x, y and the result are (B, L, D)."""


class GRUGate(ResidualGate):
    """A GRU: (1 - z) x + z tanh(W_g y + U_g (r x)).

    The gates are r = sigmoid(W_r y + U_r x) and z = sigmoid(W_z y + U_z x - b).
    """

    undecayed = ("bias",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_branch = nn.Linear(width, 3 * width, bias=False)  # W_r, W_z, W_g
        self.from_stream = nn.Linear(width, 2 * width, bias=False)  # U_r, U_z
        self.from_reset = nn.Linear(width, width, bias=False)  # U_g
        self.bias = _bias(width)

    def join(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        branch_r, branch_z, branch_g = self.from_branch(y_BLD).chunk(3, -1)
        stream_r, stream_z = self.from_stream(x_BLD).chunk(2, -1)
        reset, update = torch.sigmoid(branch_r + stream_r), torch.sigmoid(branch_z + stream_z - self.bias)
        candidate = torch.tanh(branch_g + self.from_reset(reset * x_BLD))
        return x_BLD + update * (candidate - x_BLD)


class InputGate(ResidualGate):
    """Gate on the stream: sigmoid(W x) x + y. The only gate that doesn't start near the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width, bias=False)

    def join(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(x_BLD)) * x_BLD + y_BLD


class OutputGate(InputGate):
    """Gate on the submodule's output: x + sigmoid(W x - b) y."""

    undecayed = ("bias",)

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias = _bias(width)

    def join(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        return x_BLD + torch.sigmoid(self.gate(x_BLD) - self.bias) * y_BLD


class Highway(OutputGate):
    """Highway connection: g x + (1 - g) y with g = sigmoid(W x + b)."""

    def join(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        return y_BLD + torch.sigmoid(self.gate(x_BLD) + self.bias) * (x_BLD - y_BLD)


class SigmoidTanh(OutputGate):
    """Gated tanh of the submodule's output: x + sigmoid(W y - b) tanh(U y)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.value = nn.Linear(width, width, bias=False)

    def join(self, x_BLD: Tensor, y_BLD: Tensor) -> Tensor:
        return x_BLD + torch.sigmoid(self.gate(y_BLD) - self.bias) * torch.tanh(self.value(y_BLD))


def _bias(width: int) -> nn.Parameter:
    """Return the bias b = 2, which lets about an eighth of y in."""
    return nn.Parameter(torch.full((width,), 2.0))


GATES: dict[GateName, type[ResidualGate]] = {
    "gru": GRUGate,
    "output": OutputGate,
    "highway": Highway,
    "input": InputGate,
    "sigmoid-tanh": SigmoidTanh,
}
assert set(GATES) == set(get_args(GateName))


class GatedTransformerXLLayer(TransformerXLLayer):
    """A Transformer-XL layer with gates in place of its residual sums.

    Args:
        config, cached, cache, stop_gradient, recurrence: see `TransformerXLLayer`.
        gate: the gate that joins the stream and a submodule's output; the paper's best is `gru`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        cached: int,
        cache: CacheName = "hidden",
        stop_gradient: bool = True,
        recurrence: RecurrenceName = "ordinary",
        gate: GateName = "gru",
    ) -> None:
        super().__init__(config, cached, cache, stop_gradient, recurrence)
        self.attention_residual, self.feed_forward_residual = GATES[gate](config.width), GATES[gate](config.width)

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        config = DecoderConfig(width=width, heads=2, dropout=0.1)
        for gate in GATES:
            yield cls(config, cached=4, gate=gate)
        yield cls(config, cached=4, cache="keys_values", stop_gradient=False, recurrence="enhanced")
        yield cls(config, cached=20)
