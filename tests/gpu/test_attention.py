"""The attention backends on a GPU give the numbers of `sdpa`, forward and backward."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from rmt_rl.nn.attention import Backend, backend, causal_mask
from tests.gpu.device import DEVICE, needs_cuda

pytestmark = needs_cuda
needs_flash = pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn isn't installed")


def attended(name: Backend, masked: bool) -> list[Tensor]:
    """Return the outputs and the gradients of queries, keys and values in bf16."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    shape = (2, 48, 4, 32)
    inputs = [torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
    q, k, v = (tensor.requires_grad_() for tensor in inputs)
    places = torch.arange(shape[1], device=DEVICE)[None]
    mask = causal_mask(places, shape[1], prefix=4) if masked else None
    y = backend(name)(q, k, v, mask)
    return [y, *torch.autograd.grad(y.float().square().sum(), (q, k, v))]


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
@pytest.mark.parametrize("name", [pytest.param("flash", marks=needs_flash), "flex"])
def test_a_backend_gives_the_numbers_of_sdpa(name: Backend, masked: bool) -> None:
    for one, other in zip(attended(name, masked), attended("sdpa", masked), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)
