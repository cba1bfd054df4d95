"""One attention function with three backends, and rotary positions.

Dimensions: B batch elements, T queries, S keys, H heads, E width of a head.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt_rl.errors import UsageError

Backend = Literal["sdpa", "flash", "flex"]


def sdpa(q_BTHE: Tensor, k_BSHE: Tensor, v_BSHE: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Run PyTorch's fused attention; return (B, T, H, E). `mask_BTS`: True = may attend, None = causal (T == S)."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BSHE, v_BSHE))
    mask = None if mask_BTS is None else mask_BTS[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)


def flash(q_BTHE: Tensor, k_BSHE: Tensor, v_BSHE: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Run the flash-attn package's kernel for causal masks in half precision on CUDA. Run `sdpa` otherwise."""
    if mask_BTS is not None or not q_BTHE.is_cuda or q_BTHE.dtype not in (torch.float16, torch.bfloat16):
        return sdpa(q_BTHE, k_BSHE, v_BSHE, mask_BTS)
    kernel = importlib.import_module("flash_attn").flash_attn_func
    attended: Tensor = kernel(q_BTHE, k_BSHE, v_BSHE, causal=True)
    return attended


def flex(q_BTHE: Tensor, k_BSHE: Tensor, v_BSHE: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Run PyTorch's flex_attention, compiled on CUDA. Arguments and result are those of `sdpa`.

    Raises:
        UsageError: a gradient is needed on a CPU, where flex_attention has none.
    """
    if torch.is_grad_enabled() and q_BTHE.requires_grad and not q_BTHE.is_cuda:
        raise UsageError("attention='flex' has no gradient on a CPU: choose attention='sdpa', or train on a GPU")

    def score(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        allowed = t >= s if mask_BTS is None else mask_BTS[b if mask_BTS.shape[0] > 1 else 0 * b, t, s]
        return torch.where(allowed, score, -float("inf"))

    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BSHE, v_BSHE))
    attended: Tensor = _flex_kernel(compiled=q_BTHE.is_cuda)(q, k, v, score_mod=score)
    return attended.transpose(1, 2)


@cache
def _flex_kernel(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return cast("Callable[..., Tensor]", torch.compile(flex_attention) if compiled else flex_attention)


_BACKENDS: dict[Backend, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "sdpa": sdpa,
    "flash": flash,
    "flex": flex,
}
assert set(_BACKENDS) == set(get_args(Backend))


def backend(name: Backend) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """Return the attention function of this name.

    Raises:
        UsageError: the name is `flash` and flash-attn isn't installed.
    """
    if name == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise UsageError(
            "attention='flash' needs the flash-attn package, which isn't installed: "
            "pip install 'rmt-rl[flash]', or choose attention='sdpa'"
        )
    return _BACKENDS[name]


def causal_mask(query_places_BT: Tensor, keys: int, prefix: int = 0) -> Tensor:
    """Return the bool mask (B, T, S = keys) with which a query at place p sees keys 0 ... p.

    Places below `prefix` (the read tokens of a memory) all see each other.
    """
    places_S = torch.arange(keys, device=query_places_BT.device)
    places_BT1 = query_places_BT[:, :, None]
    if prefix:
        places_BT1 = torch.where(places_BT1 < prefix, prefix - 1, places_BT1)
    return places_S <= places_BT1


_tables: dict[tuple[int, int, torch.device | None, float], Tensor] = {}


def rotary_table(head_width: int, places: int, device: torch.device | None = None, base: float = 10_000.0) -> Tensor:
    """Return rotations by the angles p base^(-2j/E): RoFormer (arXiv 2104.09864), section 3.2.2.

    Each table is computed once and kept outside of modules. As a buffer it would be cast along with its module.

    Returns:
        Cosines and sines, float32 (places, E/2, 2).
    """
    key = head_width, places, device, base
    if key in _tables:
        return _tables[key]
    with torch.inference_mode(False):  # a table made while acting must serve in training too
        frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        angles = torch.outer(torch.arange(places, dtype=torch.float64), frequencies)
        table = torch.stack((angles.cos(), angles.sin()), -1).to(device, torch.float32)
    if type(table) is Tensor and not torch.compiler.is_compiling():  # a table of a compiled graph is used only there
        _tables[key] = table
    return table


def rotate(x_BTGE: Tensor, rotations_BTJ2: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels of every head by the angles of their places, in at least float32.

    In eager mode this takes one complex product. On a CPU, forward and backward are four times faster than with real
    ones. Compilers and ONNX know real numbers only.
    """
    wide = x_BTGE if x_BTGE.dtype == torch.float64 else x_BTGE.float()
    pairs_BTGJ2 = wide.unflatten(-1, (-1, 2))
    rotations_BT1J2 = rotations_BTJ2[..., None, :, :]
    product = _real_product if torch.compiler.is_compiling() else _complex_product
    return product(pairs_BTGJ2, rotations_BT1J2).flatten(-2).to(x_BTGE.dtype)


def _complex_product(pairs: Tensor, rotations: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotations))


def _real_product(pairs: Tensor, rotations: Tensor) -> Tensor:
    x, y = pairs.unbind(-1)
    cosine, sine = rotations.unbind(-1)
    return torch.stack((x * cosine - y * sine, x * sine + y * cosine), -1)


def standing(rotations: Tensor) -> Tensor:
    """Return rotations (..., 2) of the same shape that leave everything where it is."""
    return torch.stack((torch.ones_like(rotations[..., 0]), torch.zeros_like(rotations[..., 1])), -1)


def turned_back(rotations: Tensor) -> Tensor:
    """Return the inverse rotations (..., 2)."""
    cosine, sine = rotations.unbind(-1)
    return torch.stack((cosine, -sine), -1)
