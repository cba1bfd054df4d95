"""Parts of modules that differ in exported graphs (`torch.export`, ONNX): branches, and the precision of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = tuple[Tensor, ...]

_has_branches = ContextVar("_has_branches", default=True)


def run_if(condition: Tensor, module: nn.Module, inputs: Tensors, otherwise: Callable[..., Tensors]) -> Tensors:
    """Return `module(*inputs)` in a graph, but `otherwise(*inputs)` if the condition, a bool scalar, doesn't hold.

    Both return tensors of the same shapes and dtypes, in new memory. If the condition doesn't hold, they return the
    same numbers, so `otherwise` is only a shorter way.

    `torch.cond` would compile its branches, which the modules of recurrent nets don't allow. The operator behind it
    takes plain functions, whose weights must be among its operands.
    """
    if not _has_branches.get():
        return tuple(module(*inputs))
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    count = len(weights)

    def run(*operands: Tensor) -> Tensors:
        named = dict(zip(weights, operands[:count], strict=True))
        return tuple(functional_call(module, named, operands[count:]))

    def skip(*operands: Tensor) -> Tensors:
        return tuple(otherwise(*operands[count:]))

    values = [weight.detach() for weight in weights.values()]
    cond = torch.ops.higher_order.cond
    return cast("Tensors", tuple(cond(condition, run, skip, (*values, *inputs))))


@contextmanager
def without_branches() -> Iterator[None]:
    """Make graphs without branches inside the block. It is for parts that are branches themselves.

    A branch is traced several times, so branches in branches take long.
    """
    token = _has_branches.set(False)
    try:
        yield
    finally:
        _has_branches.reset(token)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which numbers keep their precision under autocast. A graph has no autocast to switch off."""
    return nullcontext() if torch.compiler.is_exporting() else torch.autocast(device.type, enabled=False)
