"""The selective scan against its formula, token by token; cut anywhere, in chunks, and by a kernel.

Dimensions: B lanes, L tokens, E channels, N numbers of a channel's state.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rmt_rl.memory.mamba import MambaConfig, MambaLayer, fused_kernel, fused_scan, selective_scan

B, E, N = 2, 3, 4


def tokens(length: int, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    """u, delta, A, B, C and the initial state, in float64; delta is about `scale`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    delta, a = draw(B, length, E).exp() * scale, -draw(E, N).exp()
    values = [draw(B, length, E), delta, a, draw(B, length, N), draw(B, length, N), draw(B, E, N)]
    return [value.requires_grad_() for value in values]


def naive(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = exp(delta_t A) x_{t-1} + delta_t B_t u_t; y_t = C_t x_t."""
    outputs = []
    for t in range(u.shape[1]):
        state = torch.exp(torch.einsum("be,en->ben", delta[:, t], a)) * state
        state = state + torch.einsum("be,bn,be->ben", delta[:, t], b[:, t], u[:, t])
        outputs.append(torch.einsum("ben,bn->be", state, c[:, t]))
    return torch.stack(outputs, 1), state


def from_zero(u_BEL: Tensor, delta_BEL: Tensor, a_EN: Tensor, b_BNL: Tensor, c_BNL: Tensor) -> Tensor:
    """Compute as a kernel with mamba-ssm's signature does: the outputs alone, from a state of zeros, tokens last."""
    zeros = u_BEL.new_zeros(len(u_BEL), *a_EN.shape)
    return naive(u_BEL.mT, delta_BEL.mT, a_EN, b_BNL.mT, c_BNL.mT, zeros)[0].mT


def with_gradients(scan: Any, values: list[Tensor], *options: Any) -> list[Tensor]:
    """Outputs, last state, and gradients by all inputs of a loss on both."""
    y, last = scan(*values, *options)
    loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + last.sin().sum()
    return [y, last, *torch.autograd.grad(loss, values)]


def assert_all_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """Within a share of each expected tensor's largest number."""
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.detach().abs().max().item())
        torch.testing.assert_close(one.to(other), other, rtol=0, atol=tolerance * scale)


def test_two_tokens_by_hand() -> None:
    """Delta = ln 2 and A = -1 halve the state: 1 -> 1/2 + 3 ln 2 -> 1/4 + 3/2 ln 2 + 5 ln 2."""
    one, half = torch.ones(1, 2, 1), math.log(2)
    y, last = selective_scan(torch.tensor([[[3.0], [5.0]]]), one * half, -one[0, :1], one, 2 * one, one[:, :1])
    expected = torch.tensor([0.5 + 3 * half, 0.25 + 6.5 * half])
    torch.testing.assert_close(y[0, :, 0], 2 * expected)
    torch.testing.assert_close(last[0, 0], expected[1:])


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 20), chunks=st.integers(1, 7), seed=st.integers(0, 99))
def test_chunked_scan_is_the_loop(length: int, chunks: int, seed: int) -> None:
    values = tokens(length, seed)
    ours, theirs = with_gradients(selective_scan, values, chunks), with_gradients(naive, values)
    assert_all_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("cut", [1, 4, 10])
@pytest.mark.parametrize("chunks", [1, 3])
def test_cut_anywhere_the_scan_is_the_same(cut: int, chunks: int) -> None:
    u, delta, a, b, c, state = tokens(11)
    whole, last = selective_scan(u, delta, a, b, c, state, chunks)
    first, between = selective_scan(u[:, :cut], delta[:, :cut], a, b[:, :cut], c[:, :cut], state, chunks)
    second, after = selective_scan(u[:, cut:], delta[:, cut:], a, b[:, cut:], c[:, cut:], between, chunks)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(after, last)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_float32_holds_over_a_thousand_tokens(scale: float) -> None:
    """The scales give decays of almost 1, and of exp(-1e5) = 0, which clear the state after every chunk."""
    exact = with_gradients(naive, tokens(1000, scale=scale))
    single = [value.detach().float().requires_grad_() for value in tokens(1000, scale=scale)]
    assert_all_close(with_gradients(selective_scan, single, 30), exact, 1e-5)


def test_a_token_without_delta_leaves_the_state_to_the_last_bit() -> None:
    u, delta, a, b, c, state = tokens(9)
    _, last = selective_scan(u, torch.zeros_like(delta), a, b, c, state, 2)
    assert torch.equal(last, state)


@pytest.mark.parametrize("length", [1, 7])
def test_a_kernel_that_begins_with_zeros_is_enough(length: int) -> None:
    """States go in and out as tokens, gradients with them."""
    values = tokens(length)
    ours = with_gradients(lambda *given: fused_scan(from_zero, *given), values)
    assert_all_close(ours, with_gradients(naive, values), 1e-8)


@pytest.mark.skipif(not torch.cuda.is_available() or fused_kernel() is None, reason="needs mamba-ssm and CUDA")
def test_the_fused_kernel() -> None:
    kernel = fused_kernel()
    assert kernel is not None
    exact = with_gradients(naive, tokens(90))
    single = [value.detach().float().cuda().requires_grad_() for value in tokens(90)]

    def fused(*given: Tensor) -> tuple[Tensor, Tensor]:
        y, last = fused_scan(kernel, *given)
        return y.cpu(), last.cpu()

    assert_all_close(with_gradients(fused, single), exact, 1e-4)


def test_delta_starts_between_a_thousandth_and_a_tenth() -> None:
    torch.manual_seed(0)
    bias = MambaLayer(MambaConfig(width=64)).to_delta.bias
    delta = torch.nn.functional.softplus(bias)
    assert 1e-3 - 1e-6 < delta.min() < 2e-3
    assert 5e-2 < delta.max() < 0.1 + 1e-6


def test_the_convolution_sees_the_last_taps_across_segments() -> None:
    """With a scan that writes nothing, the gradient of an output reaches back to the last 3 inputs, no further."""
    torch.manual_seed(0)
    layer = MambaLayer(MambaConfig(width=4, taps=3)).double()
    torch.nn.init.zeros_(layer.to_parameters.weight)  # B = C = 0: outputs are the skip's alone
    x = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    _, state = layer(x[:, :4], layer.initial_state(1))
    y, _ = layer(x[:, 4:], state)
    (gradient,) = torch.autograd.grad(y[:, 0].square().sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).tolist() == [False, False, True, True, True, False]
