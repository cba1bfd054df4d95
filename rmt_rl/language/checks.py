"""Checks of the arguments that callers give to the token model.

Dimensions: B batch elements, L tokens, D width.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from rmt_rl.errors import UsageError


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raise UsageError unless all sizes are whole numbers, `least` or more."""
    for name, size in sizes.items():
        if not (isinstance(size, Integral) and size >= least):
            raise UsageError(f"{name}={size} must be a whole number, {least} or more")


def check_tokens(x: Tensor, width: int, vocabulary: int) -> None:
    """Raise UsageError unless x is ids, int64 (B, L) below `vocabulary`, or embeddings, floats (B, L, width)."""
    is_ids = x.dim() == 2 and x.dtype == torch.int64
    is_embeddings = x.dim() == 3 and x.is_floating_point() and x.shape[2] == width
    if not (is_ids or is_embeddings):
        shape = tuple(x.shape)
        raise UsageError(
            f"x is {x.dtype} of shape {shape}: ids are int64 (B, L), embeddings floats (B, L, dim={width})"
        )
    if is_ids:
        check_ids("x", x, vocabulary)


def check_ids(name: str, ids: Tensor, vocabulary: int) -> None:
    """Raise UsageError unless all ids are from 0 to `vocabulary` - 1; in a graph, which can't branch on them, pass."""
    if torch.compiler.is_compiling():
        return
    wrong = (ids < 0) | (ids >= vocabulary)
    if bool(wrong.any()):
        least = int(ids.min())
        most = int(ids.max())
        last = vocabulary - 1
        raise UsageError(
            f"{name} has ids from {least} to {most}: they must be from 0 to {last}, as num_tokens={vocabulary}"
        )


def check_mask(mask: Tensor, x: Tensor) -> None:
    """Raise UsageError unless the mask has a bool for each token of x."""
    if not isinstance(mask, Tensor):
        raise UsageError(f"mask is a {type(mask).__name__}: give a tensor with a bool for each token")
    if mask.dim() != 2 or mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        shape = tuple(mask.shape)
        raise UsageError(f"mask is {mask.dtype} of shape {shape}, x has shape {tuple(x.shape)}: give each token a bool")


def check_labels(labels: Tensor, x: Tensor) -> None:
    """Raise UsageError unless there is one label, int64, for each token of x, and a token at least."""
    if labels.shape != x.shape[:2] or not labels.numel() or labels.dtype != torch.int64:
        shape = tuple(labels.shape)
        raise UsageError(
            f"labels have shape {shape} and are {labels.dtype}, x has shape {tuple(x.shape)}: give each "
            "token a label of int64, and a token at least"
        )


def check_depth(truncate_at_step: int | None) -> None:
    """Raise UsageError unless `truncate_at_step` is a number of segments, or None."""
    if truncate_at_step is None:
        return
    if not (isinstance(truncate_at_step, int) and truncate_at_step >= 1):
        raise UsageError(
            f"truncate_at_step={truncate_at_step} must be 1 or more segments, or None for the gradient of all"
        )
