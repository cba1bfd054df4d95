"""The door of `predict`: observations from anywhere become batches of plain arrays, or a UsageError names the part.

Lists, numbers, tensors, and arrays of any strides and byte order are accepted. The arrays that come out are new, in C
order, and of the dtypes that tensors of this project have: float32, int64, uint8 or bool.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space, spaces

from rmt_rl.data.segment import tensor_array
from rmt_rl.data.trajectory import Array, check_parts, check_values
from rmt_rl.errors import UsageError
from rmt_rl.learnable import LeafSpace
from rmt_rl.numbers import ACTING
from rmt_rl.trees import Place, leaves, map_space, part_at, place_name

_NAME = "observation"


class ObservedBatch(NamedTuple):
    """A batch of observations.

    Attributes:
        values: arrays (B, ...) as leaves, keys in the space's order.
        size: B.
        is_single: the observation came without a dimension B, so B is 1.
    """

    values: Any
    size: int
    is_single: bool


def observed_batch(observation: Any, space: Space[Any]) -> ObservedBatch:
    """Return one observation of a space, or a batch (B, ...) of them, as a batch.

    Raises:
        UsageError: the observation lacks a part, or has one too many. Or a part has another shape, another kind of
            dtype or values outside its space's categories; or only some parts are batches, or of other sizes.
    """
    check_parts(observation, space, _NAME)
    arrays: dict[Place, Array] = {}
    sizes: dict[Place, int | None] = {}
    for place, leaf in leaves(space):
        name = place_name(_NAME, place)
        array = _checked(part_at(observation, place), leaf, name)
        arrays[place] = array
        sizes[place] = _size(array, leaf, name)
    _check_sizes(sizes)
    size = next(iter(sizes.values()))

    def batched(place: Place, leaf: Space[Any]) -> Array:
        array = tensor_array(arrays[place])
        return array[None] if size is None else array

    values = map_space(batched, space)
    return ObservedBatch(values, 1 if size is None else size, size is None)


def plain_array(value: Any, name: str) -> Array:
    """Return numbers, lists, tensors or arrays as an array of numbers.

    Raises:
        UsageError: they are no numbers, or a list of lists of different lengths.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        value = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name} can't be made an array ({error}); give numbers of one shape") from None
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{name} has dtype {array.dtype}; give integers, floats or bools")
    return array


def _checked(value: Any, space: LeafSpace, name: str) -> Array:
    """Return a part as an array, whose dtype is of the kind that its space has."""
    array = plain_array(value, name)
    asks_for_integers = np.dtype(space.dtype).kind in "biu"
    if array.dtype.kind == "f" and asks_for_integers:
        whole = np.rint(array)
        if not (np.abs(whole) < 2.0**63).all() or (whole != array).any():
            raise UsageError(f"{name} has dtype {array.dtype}; its space asks for {space.dtype}")
        array = whole.astype(np.int64)
    check_values(array, space, name, ACTING)
    return array


def _size(array: Array, space: LeafSpace, name: str) -> int | None:
    """Return the batch size of a part; None if it has no batch dimension.

    Raises:
        UsageError: its shape isn't the space's, or there is nothing in the batch.
    """
    shape, expected = array.shape, space.shape or ()
    if shape == expected:
        return None
    is_batch = len(shape) == len(expected) + 1 and shape[1:] == expected
    if not is_batch or shape[0] == 0:
        raise UsageError(f"{name} has shape {shape}; give one of shape {expected}, or a batch of them")
    return len(array)


def _check_sizes(sizes: dict[Place, int | None]) -> None:
    """Raise a UsageError unless all parts are of one batch size, or all without."""
    (first, size), *others = sizes.items()
    for place, other in others:
        if other != size:
            name, first_name = place_name(_NAME, place), place_name(_NAME, first)
            raise UsageError(
                f"{name} is {_words(other)}, but {first_name} is {_words(size)}; give all parts of the same batch"
            )


def _words(size: int | None) -> str:
    return "a single value" if size is None else f"a batch of {size}"


def check_batch_size(name: str, given: int, batch_size: int) -> None:
    """Raise a UsageError unless the argument `name` has the observation's batch size."""
    if given != batch_size:
        raise UsageError(
            f"{name} is of {given} environments, the observation of {batch_size}; begin anew with state=None"
        )


def only_value(batch: Any, space: Space[Any]) -> Any:
    """Return the first value of a batch (B, ...), of the types that a sample of the space has."""

    def row(place: Place, leaf: Space[Any]) -> Any:
        part = part_at(batch, place)
        # A Discrete's sample is a number. That of a Box () is an array.
        return part[0] if isinstance(leaf, spaces.Discrete) else part[0, ...]

    return map_space(row, space)
