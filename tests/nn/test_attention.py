"""Attention backends and rotary positions against the plainest computation, in float64.

Dimensions: B lanes, T queries, S keys, H heads, E width of a head.
"""

from __future__ import annotations

import importlib.util
import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from rmt_rl.errors import UsageError
from rmt_rl.nn.attention import Backend, backend, causal_mask, flash, flex, rotary_table, rotate, standing, turned_back
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer

HAS_FLASH = importlib.util.find_spec("flash_attn") is not None
INSTALLED: list[Backend] = [name for name in get_args(Backend) if name != "flash" or HAS_FLASH]
B, T, H, E = 2, 7, 3, 4

quiet = pytest.mark.filterwarnings("ignore:flex_attention called without")
every_backend = pytest.mark.parametrize("name", INSTALLED)


def inputs(keys: int = T) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, length, H, E, dtype=torch.float64) for length in (T, keys, keys))
    return q, k, v


def naive(q_BTHE: Tensor, k_BSHE: Tensor, v_BSHE: Tensor, allowed_BTS: Tensor) -> Tensor:
    """Softmax of the allowed scores, one query at a time."""
    out = torch.zeros_like(q_BTHE)
    for b in range(len(q_BTHE)):
        for t in range(q_BTHE.shape[1]):
            for h in range(H):
                seen = allowed_BTS[b, t].nonzero()[:, 0]
                scores = k_BSHE[b, seen, h] @ q_BTHE[b, t, h] / math.sqrt(E)
                out[b, t, h] = scores.softmax(0) @ v_BSHE[b, seen, h]
    return out


@quiet
@every_backend
def test_without_a_mask_attention_is_causal(name: Backend) -> None:
    q, k, v = inputs()
    causal_BTT = torch.ones(B, T, T, dtype=torch.bool).tril()
    torch.testing.assert_close(backend(name)(q, k, v, None), naive(q, k, v, causal_BTT))


@quiet
@every_backend
@pytest.mark.parametrize("lanes", [1, B])
def test_a_mask_is_obeyed(name: Backend, lanes: int) -> None:
    """With more keys than queries, as with a cache; one mask for all lanes, or one for each."""
    q, k, v = inputs(keys=11)
    mask_BTS = torch.rand(lanes, T, 11) < 0.4
    mask_BTS[:, :, 3] = True
    torch.testing.assert_close(backend(name)(q, k, v, mask_BTS), naive(q, k, v, mask_BTS.expand(B, -1, -1)))


@quiet
@every_backend
def test_prefix_tokens_see_each_other_and_the_rest_is_causal(name: Backend) -> None:
    q, k, v = inputs()
    expected_BTT = torch.ones(B, T, T, dtype=torch.bool).tril()
    expected_BTT[:, :3, :3] = True
    mask_1TT = causal_mask(torch.arange(T)[None], T, prefix=3)
    assert torch.equal(mask_1TT.expand(B, -1, -1), expected_BTT)
    torch.testing.assert_close(backend(name)(q, k, v, mask_1TT), naive(q, k, v, expected_BTT))


def test_causal_mask_of_lanes_at_mixed_places() -> None:
    mask_BTS = causal_mask(torch.tensor([[0, 1], [3, 4]]), keys=5)
    assert mask_BTS.sum(-1).tolist() == [[1, 2], [4, 5]]
    assert not (mask_BTS[..., 1:] & ~mask_BTS[..., :-1]).any()


@pytest.mark.skipif(HAS_FLASH, reason="flash-attn is installed")
def test_flash_without_its_package_says_how_to_install_it() -> None:
    with pytest.raises(UsageError, match=r"pip install 'rmt-rl\[flash\]'"):
        DecoderLayer(DecoderConfig(attention="flash"))


def test_flash_falls_back_where_its_kernel_does_not_apply() -> None:
    q, k, v = inputs()
    causal_BTT = torch.ones(B, T, T, dtype=torch.bool).tril()
    torch.testing.assert_close(flash(q, k, v, None), naive(q, k, v, causal_BTT))
    causal_BTT[:, :, 0] = False
    causal_BTT[:, 0, 5] = True
    torch.testing.assert_close(flash(q, k, v, causal_BTT), naive(q, k, v, causal_BTT))


@pytest.mark.skipif(not (HAS_FLASH and torch.cuda.is_available()), reason="needs flash-attn and CUDA")
def test_the_flash_kernel_is_sdpa() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, 50, H, 32, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    torch.testing.assert_close(flash(q, k, v, None), backend("sdpa")(q, k, v, None), rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_flex_is_sdpa(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, 50, H, 32, device="cuda") for _ in range(3))
    mask_1TT = causal_mask(torch.arange(50, device="cuda")[None], 50, prefix=5) if masked else None
    torch.testing.assert_close(
        backend("flex")(q, k, v, mask_1TT), backend("sdpa")(q, k, v, mask_1TT), rtol=1e-3, atol=1e-3
    )


# Rotary positions


def rotations(places: int) -> Tensor:
    return rotary_table(8, places).double()


def test_scores_depend_on_the_distance_only() -> None:
    """And do depend on it."""
    torch.manual_seed(0)
    q_E, k_E = torch.randn(2, 8, dtype=torch.float64)
    q_THE, k_THE = (rotate(x.expand(1, 40, 1, 8), rotations(40))[0] for x in (q_E, k_E))
    scores_TT = torch.einsum("the,she->ts", q_THE, k_THE)
    for distance in (0, 1, 5, 20):
        same = scores_TT.diagonal(-distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), rtol=1e-5, atol=1e-5)
    first = scores_TT[:, 0]
    assert (first[1:] - first[:-1]).abs().min() > 1e-4


def test_rotation_by_its_formula() -> None:
    """Channels 2j and 2j + 1 turn by p base^(-2j / E) at place p (RoFormer, equation 15)."""
    torch.manual_seed(0)
    x_E, place = torch.randn(8, dtype=torch.float64), 3
    turned_E = rotate(x_E.expand(1, 5, 1, 8), rotations(5))[0, place, 0]
    for j in range(4):
        angle = place * 10_000 ** (-2 * j / 8)
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
        )
        torch.testing.assert_close(turned_E[2 * j : 2 * j + 2], turn @ x_E[2 * j : 2 * j + 2], rtol=1e-6, atol=1e-6)


def test_a_longer_table_only_adds_places() -> None:
    assert torch.equal(rotary_table(8, 100)[:10], rotary_table(8, 10))


def test_a_table_without_numbers_is_not_kept() -> None:
    with FakeTensorMode():
        rotary_table(6, 3)
    assert rotary_table(6, 3)[0].equal(torch.tensor([[1.0, 0.0]] * 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_compiled_rotation_is_the_same_in_real_numbers(dtype: torch.dtype) -> None:
    x_BTHE = torch.randn(B, T, H, 8).to(dtype)
    table = rotary_table(8, T)
    program = torch.export.export(Rotation(), (x_BTHE, table))
    used = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in used if "complex" in name]
    torch.testing.assert_close(program.module()(x_BTHE, table), rotate(x_BTHE, table))


class Rotation(nn.Module):
    def forward(self, x_BTHE: Tensor, rotations: Tensor) -> Tensor:
        return rotate(x_BTHE, rotations)


def test_turning_back_undoes_a_rotation() -> None:
    x_BTHE = torch.randn(B, T, H, 8)
    table = rotary_table(8, T)
    torch.testing.assert_close(rotate(rotate(x_BTHE, table), turned_back(table)), x_BTHE)
    assert torch.equal(rotate(x_BTHE, standing(table)), x_BTHE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rotation_keeps_dtype_and_length(dtype: torch.dtype) -> None:
    x_BTHE = torch.randn(B, T, H, 8).to(dtype)
    turned_BTHE = rotate(x_BTHE, rotary_table(8, T))
    assert turned_BTHE.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(turned_BTHE.norm(dim=-1), x_BTHE.norm(dim=-1), rtol=tolerance, atol=tolerance)


def test_acting_leaves_a_layer_fit_for_training() -> None:
    """The table that grows under `inference_mode` can still take part in a graph."""
    layer = DecoderLayer(DecoderConfig(width=8, heads=2))
    with torch.inference_mode():
        layer.step(torch.zeros(1, 2, 8), layer.begin((), 1, capacity=300))
    layer(torch.zeros(1, 5, 8), ())[0].sum().backward()


def test_flex_tells_that_it_has_no_gradient_on_a_cpu() -> None:
    q = torch.randn(1, 3, 2, 4, requires_grad=True)
    with pytest.raises(UsageError, match="attention='flex' has no gradient on a CPU: choose attention='sdpa'"):
        flex(q, q, q, None)
