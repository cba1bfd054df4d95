"""Gated recurrent layers: LSTM (Hochreiter & Schmidhuber, 1997) and GRU (arXiv 1406.1078), pre-norm and residual.

A layer is a Transformer block with a recurrent net in place of attention, so that deep nets train well:
x + W RNN(Norm(x)), then x + FeedForward(Norm(x)). The LSTM's cell is c_t = f c_{t-1} + i tanh(.) and its output is
o tanh(c_t). The GRU's output is z h_{t-1} + (1 - z) tanh(.). For the full formulas see `torch.nn.LSTM` and
`torch.nn.GRU`. PyTorch's kernels run whole segments and single tokens alike. They run in the weights' precision even
under autocast, because a state that is rounded at every token drifts.

Gates start with chrono initialisation (arXiv 1804.11188): the bias of a gate that keeps the state is log U[1, T-1], so
that channels forget within 2 to T tokens. T = 2 gives a bias of zero.

Dimensions: B batch elements, L tokens of a segment, D width, H width of the recurrent state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from rmt_rl.config import Frozen
from rmt_rl.nn.graphs import without_autocast
from rmt_rl.recurrence import Pointwise, SegmentRecurrent, Stack, Tree, clone, take_tokens, tree_map


class GatedConfig(Frozen):
    """Size and shape of a gated recurrent net."""

    layers: int = Field(2, ge=1, description="number of recurrent layers")
    width: int = Field(64, ge=2, description="width of a token")
    state: int | None = Field(None, ge=1, description="width of the recurrent state; unset = 2 x width")
    hidden: int | None = Field(None, ge=1, description="hidden width of the feed-forward net; unset = 4 x width")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on each residual branch")


StateT = TypeVar("StateT", bound=Tree)


class GatedLayer(SegmentRecurrent[StateT, StateT]):
    """Base class of both layers. The state is the recurrent net's after the last real token, initially zero.

    Args:
        config: sizes.
        remember: T of the chrono initialisation in tokens, at least 2.
    """

    undecayed = ("rnn.bias_ih_l0", "rnn.bias_hh_l0")
    kind: ClassVar[Callable[..., nn.RNNBase]]
    keeping: ClassVar[dict[int, int]]  # by gate index: 1 if an open gate keeps the state, -1 if it loses it

    def __init__(self, config: GatedConfig, remember: int) -> None:
        super().__init__()
        self.width, self.state_width = config.width, config.state or 2 * config.width
        self.norm = nn.LayerNorm(config.width)
        self.rnn = self.kind(config.width, self.state_width, batch_first=True)
        self._start_gates(remember)
        self.from_state = nn.Linear(self.state_width, config.width, bias=False)
        hidden = config.hidden or 4 * config.width
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width)
        )
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    @torch.no_grad()
    def _start_gates(self, remember: int) -> None:
        times_H = torch.empty(self.state_width).uniform_(1, remember - 1)
        from_input, from_state = (bias.view(-1, self.state_width) for bias in self.weights()[2:])
        for gate, sign in self.keeping.items():
            from_input[gate], from_state[gate] = sign * times_H.log(), 0

    def weights(self) -> list[Tensor]:
        """Return the recurrent net's weights of input and state, then its biases of both."""
        return list(self.rnn.parameters())

    @abstractmethod
    def run(self, x_BLD: Tensor, state: StateT, lengths_B: Tensor | None) -> tuple[Tensor, StateT]:
        """Return the recurrent net's outputs (B, L, H) and its state after each batch element's last real token."""

    def zeros(self, batch_size: int) -> Tensor:
        """Return a hidden state (B, H) of zeros."""
        return self.from_state.weight.new_zeros(batch_size, self.state_width)

    def forward(self, x_BLD: Tensor, state: StateT, lengths_B: Tensor | None = None) -> tuple[Tensor, StateT]:
        if not x_BLD.shape[1]:  # kernels refuse empty segments
            return x_BLD, state
        dtype = self.from_state.weight.dtype
        with without_autocast(x_BLD.device):
            normed = self.norm(x_BLD.to(dtype))
            y_BLH, state = self.run(normed, tree_map(lambda leaf: leaf.to(dtype), state), lengths_B)
        x_BLD = x_BLD + self.dropout(self.from_state(y_BLH))
        y_BLD: Tensor = x_BLD + self.dropout(self.feed_forward(x_BLD))
        return y_BLD, state

    def begin(self, state: StateT, batch_size: int, capacity: int) -> StateT:
        return clone(state)

    def step(self, x_BTD: Tensor, cache: StateT, lengths_B: Tensor | None = None) -> tuple[Tensor, StateT]:
        return self.forward(x_BTD, cache, lengths_B)

    def end(self, cache: StateT) -> StateT:
        return cache

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        if cls is GatedLayer:
            return
        yield cls(GatedConfig(width=width), remember=2)
        yield cls(GatedConfig(width=width, state=5, hidden=width, dropout=0.2), remember=20)


class GRULayer(GatedLayer[Tensor]):
    """A layer around a GRU. The state is the GRU's hidden state (B, H)."""

    kind, keeping = nn.GRU, {1: 1}  # gates in PyTorch's order: reset, update (keeps the state), new

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size)

    def run(self, x_BLD: Tensor, state: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        y_BLH, last_1BH = self.rnn(x_BLD, state[None])
        return y_BLH, last_1BH[0] if lengths_B is None else after(y_BLH, state, lengths_B)


class LSTMState(NamedTuple):
    """Hidden and cell state, (B, H) each."""

    hidden_BH: Tensor
    cell_BH: Tensor


class LSTMLayer(GatedLayer[LSTMState]):
    """A layer around an LSTM."""

    kind, keeping = nn.LSTM, {0: -1, 1: 1}  # gates in PyTorch's order: input, forget, cell, output
    hold: Tensor

    def __init__(self, config: GatedConfig, remember: int) -> None:
        super().__init__(config, remember)
        # Weights of an extra input that is 1 at padding: it shuts the input gate and opens the forget gate, exactly to
        # the last bit.
        hold = torch.tensor([-1e4, 1e4, 0, 0]).repeat_interleave(self.state_width)[:, None]
        self.register_buffer("hold", hold, persistent=False)

    def initial_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))

    def run(self, x_BLD: Tensor, state: LSTMState, lengths_B: Tensor | None) -> tuple[Tensor, LSTMState]:
        hidden_1BH, cell_1BH = state.hidden_BH[None], state.cell_BH[None]
        if lengths_B is None:
            y_BLH, (hidden_1BH, cell_1BH) = self.rnn(x_BLD, (hidden_1BH, cell_1BH))
            return y_BLH, LSTMState(hidden_1BH[0], cell_1BH[0])
        # Kernels return the cell state only at the end of the row, so padding must carry it there unchanged. Packing
        # (`pack_padded_sequence`) would work too, but is four times slower on a CPU and refuses batch elements without
        # tokens.
        padding_BL = torch.arange(x_BLD.shape[1], device=x_BLD.device) >= lengths_B[:, None]
        x_BLD = torch.cat((x_BLD, padding_BL[:, :, None].to(x_BLD.dtype)), 2)
        from_input, *others = self.weights()
        weights = [torch.cat((from_input, self.hold), 1), *others]
        y_BLH, _, cell_1BH = torch.lstm(
            x_BLD, (hidden_1BH, cell_1BH), weights, True, 1, 0.0, self.training, False, batch_first=True
        )
        return y_BLH, LSTMState(after(y_BLH, state.hidden_BH, lengths_B), cell_1BH[0])


def after(y_BLH: Tensor, initial_BH: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the output (B, H) at each batch element's last real token, or `initial_BH` if it has none."""
    return take_tokens(torch.cat((initial_BH[:, None], y_BLH), 1), lengths_B[:, None])[:, 0]


def gated_rnn(layer: type[GatedLayer[Any]], config: GatedConfig, remember: int) -> Stack:
    """Return recurrent layers followed by the final norm that pre-norm residual streams need."""
    norm = Pointwise(nn.LayerNorm(config.width), config.width)
    return Stack([*(layer(config, remember) for _ in range(config.layers)), norm])
