"""The bytes of a model's weights, counted without allocating them.

The model is made on PyTorch's meta device, whose tensors have shapes and no memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from rmt_rl.config import Frozen

MOST_TENSORS = 600  # counting more takes longer than a second; the rest is extrapolated
BEYOND = 2**63  # bytes; PyTorch can't count as many
FEW, TWICE = 16, 32  # values of an option by which its share of the tensors is told

_DRAWING = frozenset({Tensor.normal_, Tensor.uniform_})

ConfigT = TypeVar("ConfigT", bound=Frozen)


class WeightCount(NamedTuple):
    """Weights that a model has at least: the number of tensors, and their bytes."""

    tensors: int
    bytes: int


class _Enough(BaseException):
    """Ends the making of a model. No model's own `except Exception` stops it."""


class _Counter:
    """Counts the weights of modules while they are made, up to a number of tensors."""

    def __init__(self, most_tensors: int) -> None:
        self.most_tensors = most_tensors
        self.tensors = 0
        self.bytes = 0

    def add(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        self.tensors += 1
        self.bytes += tensor.numel() * tensor.element_size()
        if self.tensors >= self.most_tensors:
            raise _Enough


class _StayOnMeta(TorchFunctionMode):
    """Leaves a meta tensor where it is if it is to be moved to another device, where it can't go.

    Values are not drawn, for there are none. PyTorch would import its compiler to do so, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        draws = func in _DRAWING or getattr(func, "__module__", None) == nn.init.__name__
        if draws:
            return args[0] if args else kwargs["tensor"]
        try:
            return func(*args, **(kwargs or {}))
        except NotImplementedError:
            if func is Tensor.to:
                return args[0]
            raise


@contextmanager
def without_memory() -> Iterator[None]:
    """Make tensors that have shapes and no memory."""
    with torch.device("meta"), _StayOnMeta():
        yield


def count_weights(make: Callable[[ConfigT], object], config: ConfigT) -> WeightCount:
    """Return a lower bound of the weights of `make(config)`.

    A model of very many tensors isn't made to its end: its number of layers is found among the options, and its size is
    extrapolated. A model that can't be made without memory is counted as far as it goes.
    """
    counted = _count(make, config, MOST_TENSORS)
    if counted.tensors < MOST_TENSORS:
        return counted
    extrapolated = [_extrapolated(make, config, name) for name in _large_options(config)]
    return max([counted, *extrapolated])


def _count(make: Callable[[ConfigT], object], config: ConfigT, most_tensors: int) -> WeightCount:
    counter = _Counter(most_tensors)
    with ExitStack() as stack:
        for register in (register_module_parameter_registration_hook, register_module_buffer_registration_hook):
            handle = register(counter.add)
            stack.callback(handle.remove)
        stack.enter_context(without_memory())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        try:
            make(config)
        except _Enough:
            pass
        except Exception as error:  # the model itself tells its errors, when it is made with memory
            if "overflow" in str(error).lower():
                return WeightCount(counter.tensors, BEYOND)
    return WeightCount(counter.tensors, counter.bytes)


def _large_options(config: Frozen) -> list[str]:
    """Return the names of the options that may be the number of so many layers."""
    return [name for name, value in config if isinstance(value, int) and value > TWICE]


def _extrapolated(make: Callable[[ConfigT], object], config: ConfigT, name: str) -> WeightCount:
    """Return the weights if their number is linear in an option, else what its small value gives."""
    few = _count(make, config.model_copy(update={name: FEW}), MOST_TENSORS)
    twice = _count(make, config.model_copy(update={name: TWICE}), MOST_TENSORS)
    is_number_of_layers = few.tensors < twice.tensors < MOST_TENSORS
    if not is_number_of_layers:
        return few
    more = getattr(config, name) - FEW
    tensors = (twice.tensors - few.tensors) * more // (TWICE - FEW)
    size = (twice.bytes - few.bytes) * more // (TWICE - FEW)
    return WeightCount(few.tensors + tensors, few.bytes + size)
