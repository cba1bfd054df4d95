"""Memory Retention Valve (RATE): decides how much of the old memory is kept when a new one is written.

M_{n+1} = Valve(M_n, M~_{n+1}), with M_n (B, M, D) the memory that the segment read and M~_{n+1} (B, M, D) the memory
that it wrote. Source: RATE (arXiv 2306.09459), section "Memory Retention Valve" and the variants of its ablation.

Dimensions: B batch elements, M memory tokens, D width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree

ValveName = Literal["none", "ca-2", "ca-1", "gate", "hard-gate", "gru", "lstm"]


class Valve(nn.Module):
    """No valve: the new memory replaces the old one (RMT). Base class of all variants."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def initial_state(self, memory_BMD: Tensor) -> Tree:
        """Return the initial value of the state that the valve itself carries from segment to segment."""
        return ()

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """Return the memory (B, M, D) for the next segment, and the valve's next state."""
        return new_BMD.clone(), state  # a view would keep the whole segment in memory


class CrossAttention2(Valve):
    """CA-2, RATE's default: cross-attention with queries from the old memory, keys and values from the new memory.

    M_{n+1} = softmax(M_n Wq (M~ Wk)' / sqrt(E)) M~ Wv for each head of width E, joined by an output matrix.

    The formula makes tokens equal: nearly equal tokens have nearly equal queries and get nearly equal answers. From the
    second or third segment on, the M tokens hold one vector, which is the capacity of a single token. All other valves
    except `ca-1` keep their tokens apart.

    Raises:
        UsageError: the number of heads doesn't divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        if width % heads:
            raise UsageError(f"valve_heads={heads} must divide width={width}")
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return self.attention(old_BMD, new_BMD, new_BMD, need_weights=False)[0], state


class CrossAttention1(CrossAttention2):
    """CA-1: queries from the new memory, keys and values from the old one, i.e. CA-2 with M_n and M~ exchanged."""

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return super().forward(new_BMD, old_BMD, state)


class GateValve(Valve):
    """A gate per channel: g * new + (1 - g) * old, with g = sigmoid(W [old, new] + b)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.gate = nn.Linear(2 * width, width)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        gate = self.opened(self.gate(torch.cat((old_BMD, new_BMD), -1)))
        return old_BMD + gate * (new_BMD - old_BMD), state

    def opened(self, logits_BMD: Tensor) -> Tensor:
        """Return the opening of the gate, from 0 (shut) to 1 (open)."""
        return logits_BMD.sigmoid()


class HardGateValve(GateValve):
    """A gate that can shut completely: the sigmoid, stretched to -.1 ... 1.1 and clipped (as in arXiv 1712.01312).

    Below a logit of -2.4 the gate is 0, and its channel is kept bit for bit over any number of segments. A sigmoid
    leaks a little in each segment, and training over hundreds of segments doesn't show what matters over thousands. The
    noise of arXiv 1712.01312 is left out, so a channel that is shut for every input gets no gradient.
    """

    def opened(self, logits_BMD: Tensor) -> Tensor:
        return (1.2 * logits_BMD.sigmoid() - 0.1).clamp(0, 1)


class GRUValve(Valve):
    """A GRU cell per memory token, with the old token as hidden state and the new one as input: GRU(M~, M_n)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.cell = nn.GRUCell(width, width)

    def forward(self, old_BMD: Tensor, new_BMD: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return self.cell(new_BMD.flatten(0, 1), old_BMD.flatten(0, 1)).view_as(old_BMD), state


class LSTMValve(Valve):
    """An LSTM cell per memory token, otherwise as `GRUValve`: M_{n+1}, c_{n+1} = LSTM(M~, (M_n, c_n)).

    The cell state c (B, M, D) is the valve's own state, initially zero.
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
    "gate": GateValve,
    "hard-gate": HardGateValve,
    "gru": GRUValve,
    "lstm": LSTMValve,
}
assert set(VALVES) == set(get_args(ValveName))
