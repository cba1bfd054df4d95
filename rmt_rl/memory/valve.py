"""Memory Retention Valve (RATE): what of the old memory is kept when a segment has written a new one.

M_{n+1} = Valve(M_n, M~_{n+1}) with M_n (B, M, D) the memory that the segment read and M~_{n+1} (B, M, D) what it
wrote: RATE (arXiv 2306.09459), section "Memory Retention Valve" and the variants of its ablation.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree

ValveName = Literal["none", "ca-2", "ca-1", "gate", "hard-gate", "gru", "lstm"]


class Valve(nn.Module):
    """Without a valve the new memory simply takes the old one's place (RMT). Base class of all variants."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def initial_state(self, memory_BMD: Tensor) -> Tree:
        """What the valve itself carries from segment to segment."""
        return ()

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """The memory (B, M, D) for the next segment, and the valve's next state."""
        return new_BMD.clone(), state  # a view would keep the whole segment in memory


class CrossAttention2(Valve):
    """CA-2, RATE's default: the old memory asks (queries), the new one answers (keys, values).

    M_{n+1} = softmax(M_n Wq (M~ Wk)' / sqrt(E)) M~ Wv for each head of width E, joined by an output matrix.

    A property of the formula: tokens that are nearly equal ask nearly the same and are answered the same, so from the
    second or third segment on the M tokens hold one vector: the room of a single token. All other valves
    but `ca-1` keep their tokens apart.

    Raises:
        UsageError: the heads don't divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        if width % heads:
            raise UsageError(f"valve_heads={heads} must divide width={width}")
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return self.attention(old_BMD, new_BMD, new_BMD, need_weights=False)[0], state


class CrossAttention1(CrossAttention2):
    """CA-1: the new memory asks, the old one answers: as CA-2 with M_n and M~ exchanged."""

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return super().forward(new_BMD, old_BMD, state)


class Gate(Valve):
    """A gate for each channel: g * new + (1 - g) * old, with g = sigmoid(W [old, new] + b)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.gate = nn.Linear(2 * width, width)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        gate = self.opened(self.gate(torch.cat((old_BMD, new_BMD), -1)))
        return old_BMD + gate * (new_BMD - old_BMD), state

    def opened(self, logits_BMD: Tensor) -> Tensor:
        """How far the gate is open, from 0 to 1."""
        return logits_BMD.sigmoid()


class HardGate(Gate):
    """A gate that can be shut: the sigmoid, stretched to -.1 ... 1.1 and cut off (as in arXiv 1712.01312).

    Below a logit of -2.4 it is 0, and its channel is kept bit for bit, over any number of segments. A sigmoid leaks a
    little in each, and training over hundreds of segments can't tell it what matters over thousands. There is none of
    that paper's noise: a channel that is shut whatever comes gets no gradient.
    """

    def opened(self, logits_BMD: Tensor) -> Tensor:
        return (1.2 * logits_BMD.sigmoid() - 0.1).clamp(0, 1)


class GRU(Valve):
    """Each memory token is the hidden state of a GRU cell, whose input is the new token: M_{n+1} = GRU(M~, M_n)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.cell = nn.GRUCell(width, width)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return self.cell(new_BMD.flatten(0, 1), old_BMD.flatten(0, 1)).view_as(old_BMD), state


class LSTM(Valve):
    """As `GRU` with an LSTM cell: M_{n+1}, c_{n+1} = LSTM(M~, (M_n, c_n)).

    The cell state c is the valve's own state (B, M, D), zero at first.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.cell = nn.LSTMCell(width, width)

    def initial_state(self, memory_BMD: Tensor) -> Tree:
        return torch.zeros_like(memory_BMD)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        assert isinstance(state, Tensor)
        hidden, cell = self.cell(new_BMD.flatten(0, 1), (old_BMD.flatten(0, 1), state.flatten(0, 1)))
        return hidden.view_as(old_BMD), cell.view_as(old_BMD)


VALVES: dict[ValveName, type[Valve]] = {
    "none": Valve,
    "ca-2": CrossAttention2,
    "ca-1": CrossAttention1,
    "gate": Gate,
    "hard-gate": HardGate,
    "gru": GRU,
    "lstm": LSTM,
}
assert set(VALVES) == set(get_args(ValveName))
