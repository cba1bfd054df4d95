"""Mamba (arXiv 2312.00752): a selective state space model, in which the inputs choose what the state keeps.

The state x of a channel e has N entries. It follows x_t = exp(delta_t A) x_{t-1} + delta_t B_t u_t and is read as
y_t = C_t x_t + D u_t. A < 0 is diagonal; delta, B and C depend on the token (equation 2a, algorithm 2). The decay is
that of the zero-order hold (equation 4). The factor of B is the zero-order hold's to first order, delta, as in the
authors' code. All decays are exp(-something) <= 1 and nothing is divided by a decay, so rounding errors don't grow with
the length. A token with delta = 0 leaves the state unchanged; padding is such a token.

Dimensions: B batch elements, L tokens of a segment, D width, E = expand x D channels, N entries of a channel's state,
K taps of the convolution.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rmt_rl.config import Frozen
from rmt_rl.nn.graphs import without_autocast
from rmt_rl.recurrence import Pointwise, SegmentRecurrent, Stack, clone, consecutive_places, take_tokens

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def selective_scan(
    u_BLE: Tensor, delta_BLE: Tensor, a_EN: Tensor, b_BLN: Tensor, c_BLN: Tensor, state_BEN: Tensor, chunks: int = 1
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in PyTorch and return the outputs C_t x_t (B, L, E) and the last state (B, E, N).

    The tokens are cut into `chunks` equal chunks. First, all chunks run at once, token by token within each. Then,
    chunk by chunk, the state left by the chunk before is added, decayed by exp(A x the sum of delta since). This takes
    about 2 L / chunks + chunks steps in all.
    """
    length = u_BLE.shape[1]
    size = -(-length // chunks)
    rows = (delta_BLE * u_BLE, delta_BLE, b_BLN, c_BLN)
    written, delta, b, c = (F.pad(row, (0, 0, 0, size * chunks - length)).unflatten(1, (chunks, size)) for row in rows)
    state = torch.stack([state_BEN, *[torch.zeros_like(state_BEN)] * (chunks - 1)], 1)
    outputs = []
    for written_t, delta_t, b_t, c_t in zip(*(row.unbind(2) for row in (written, delta, b, c)), strict=True):
        state = _decay(delta_t, a_EN) * state + written_t[..., None] * b_t[..., None, :]
        outputs.append(_read(state, c_t))
    y_BLE = torch.stack(outputs, 2).flatten(1, 2)[:, :length]
    if chunks == 1:
        return y_BLE, state[:, 0]
    since = delta.cumsum(2)
    left = [state[:, 0]]
    for chunk in range(1, chunks):
        left.append(_decay(since[:, chunk, -1], a_EN) * left[-1] + state[:, chunk])
    before = torch.stack(left[:-1], 1)
    steps = zip(since[:, 1:].unbind(2), c[:, 1:].unbind(2), strict=True)
    late_BLE = torch.stack([_read(_decay(since_t, a_EN) * before, c_t) for since_t, c_t in steps], 2).flatten(1, 2)
    return torch.cat((y_BLE[:, :size], y_BLE[:, size:] + late_BLE[:, : length - size]), 1), left[-1]


def _decay(delta_xE: Tensor, a_EN: Tensor) -> Tensor:
    return torch.exp(delta_xE[..., None] * a_EN)


def _read(state_xEN: Tensor, c_xN: Tensor) -> Tensor:
    return (state_xEN @ c_xN[..., None])[..., 0]


def fused_scan(
    kernel: Kernel, u_BLE: Tensor, delta_BLE: Tensor, a_EN: Tensor, b_BLN: Tensor, c_BLN: Tensor, state_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `selective_scan` with a kernel (u, delta, A, B, C; tokens last) that starts from a state of zeros.

    Such a kernel also gives no gradient through its last state, so both states pass through the kernel as tokens. N
    tokens go ahead, the n-th of which writes entry n of the initial state. N tokens with delta = 0 follow, the n-th of
    which reads entry n of the last state.
    """
    n = a_EN.shape[1]
    # delta of the tokens ahead. It is small, so what they write hardly decays, and a power of 2, so nothing is rounded.
    little = 2.0**-20
    later_N = torch.arange(n - 1, -1, -1, device=a_EN.device)
    ahead_BEN = state_BEN / little * torch.exp(-little * later_N * a_EN)
    inert_BEN = torch.zeros_like(state_BEN)
    eye_BNN = torch.eye(n, dtype=a_EN.dtype, device=a_EN.device).expand(len(u_BLE), -1, -1)
    u, delta, b, c = (
        torch.cat(parts, 2).contiguous()
        for parts in (
            (ahead_BEN, u_BLE.mT, inert_BEN),
            (inert_BEN + little, delta_BLE.mT, inert_BEN),
            (eye_BNN, b_BLN.mT, eye_BNN),
            (eye_BNN, c_BLN.mT, eye_BNN),
        )
    )
    y = kernel(u, delta, a_EN, b, c)
    return y[:, :, n:-n].mT, y[:, :, -n:]


@cache
def fused_kernel() -> Kernel | None:
    """Return the mamba-ssm package's CUDA kernel, or None if the package isn't installed."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    return cast("Kernel", importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn)


class MambaConfig(Frozen):
    """Size and shape of a Mamba net."""

    layers: int = Field(2, ge=1, description="number of Mamba layers")
    width: int = Field(64, ge=2, description="width of a token")
    expand: int = Field(2, ge=1, description="channels of a layer, as a multiple of width")
    state: int = Field(16, ge=1, description="entries of a channel's state")
    taps: int = Field(4, ge=2, description="tokens seen by the convolution before the state space")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on each residual branch")


class MambaState(NamedTuple):
    """The convolution's last K-1 inputs (B, K-1, E), zero at the start of an episode, and the state (B, E, N)."""

    inputs_BKE: Tensor
    state_BEN: Tensor


class MambaLayer(SegmentRecurrent[MambaState, MambaState]):
    """A residual layer x + Mamba(Norm(x)): figure 3. The scan runs in the weights' precision even under autocast."""

    undecayed = ("log_a_EN", "skip_E", "to_delta.bias")

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.width, channels, self.taps = config.width, config.expand * config.width, config.taps
        self.sizes = (-(-config.width // 16), config.state, config.state)  # widths of delta's input, of B and of C
        self.norm = nn.LayerNorm(config.width)
        self.to_input_gate = nn.Linear(config.width, 2 * channels, bias=False)
        self.convolution = nn.Conv1d(channels, channels, config.taps, groups=channels)
        self.to_parameters = nn.Linear(channels, sum(self.sizes), bias=False)
        self.to_delta = nn.Linear(self.sizes[0], channels)
        with torch.no_grad():  # delta starts between .001 and .1, log-uniform: section 3.6
            start = torch.exp(torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1)))
            self.to_delta.bias.copy_(torch.log(torch.expm1(start)))  # the inverse of softplus
        # A_n = -n, the real S4D initialisation of section 3.6
        self.log_a_EN = nn.Parameter(torch.arange(1, config.state + 1).float().log().repeat(channels, 1))
        self.skip_E = nn.Parameter(torch.ones(channels))
        self.from_channels = nn.Linear(channels, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def initial_state(self, batch_size: int) -> MambaState:
        channels, state = self.log_a_EN.shape
        zeros = self.log_a_EN.new_zeros
        return MambaState(zeros(batch_size, self.taps - 1, channels), zeros(batch_size, channels, state))

    def forward(self, x_BLD: Tensor, state: MambaState, lengths_B: Tensor | None = None) -> tuple[Tensor, MambaState]:
        if not x_BLD.shape[1]:
            return x_BLD, state
        inputs_BLE, gate_BLE = self.to_input_gate(self.norm(x_BLD)).chunk(2, -1)
        row = torch.cat((state.inputs_BKE.to(inputs_BLE.dtype), inputs_BLE), 1)
        u_BLE = F.silu(self.convolution(row.mT).mT)
        y_BLE, state_BEN = self._scan(u_BLE, state.state_BEN, lengths_B)
        y_BLD: Tensor = x_BLD + self.dropout(self.from_channels(y_BLE * F.silu(gate_BLE)))
        return y_BLD, MambaState(self._last_inputs(row, lengths_B).to(state_BEN.dtype), state_BEN)

    def _scan(self, u_BLE: Tensor, state_BEN: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        for_delta, b_BLN, c_BLN = self.to_parameters(u_BLE).split(self.sizes, -1)
        with without_autocast(u_BLE.device):
            dtype, length = self.log_a_EN.dtype, u_BLE.shape[1]
            delta_BLE = F.softplus(self.to_delta(for_delta.to(dtype)))
            if lengths_B is not None:
                padding_BL = torch.arange(length, device=u_BLE.device) >= lengths_B[:, None]
                delta_BLE = delta_BLE.masked_fill(padding_BL[:, :, None], 0)
            tokens = (u_BLE.to(dtype), delta_BLE, -self.log_a_EN.exp(), b_BLN.to(dtype), c_BLN.to(dtype))
            kernel = fused_kernel() if u_BLE.is_cuda and dtype == torch.float32 else None
            if kernel:
                y_BLE, state_BEN = fused_scan(kernel, *tokens, state_BEN)
            else:  # one chunk does the least work; on a GPU, fewer and larger steps are faster
                chunks = math.isqrt(length) if u_BLE.is_cuda else 1
                y_BLE, state_BEN = selective_scan(*tokens, state_BEN, chunks)
            return y_BLE + self.skip_E * tokens[0], state_BEN

    def _last_inputs(self, row: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the last K-1 real inputs of a row [K-1 inputs before the segment, segment]."""
        if lengths_B is None:
            return row[:, 1 - self.taps :].clone()  # a view would keep the whole segment in memory
        return take_tokens(row, consecutive_places(lengths_B, self.taps - 1))

    def begin(self, state: MambaState, batch_size: int, capacity: int) -> MambaState:
        return clone(state)

    def step(self, x_BTD: Tensor, cache: MambaState, lengths_B: Tensor | None = None) -> tuple[Tensor, MambaState]:
        return self.forward(x_BTD, cache, lengths_B)

    def end(self, cache: MambaState) -> MambaState:
        return cache

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(MambaConfig(width=width, state=4))
        yield cls(MambaConfig(width=width, expand=1, state=3, taps=2, dropout=0.2))


def mamba(config: MambaConfig) -> Stack:
    """Return Mamba layers followed by the final norm that pre-norm residual streams need."""
    norm = Pointwise(nn.LayerNorm(config.width), config.width)
    return Stack([*(MambaLayer(config) for _ in range(config.layers)), norm])
