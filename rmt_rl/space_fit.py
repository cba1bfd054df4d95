"""Spaces that hold the same kinds of values, though their bounds or the width of their numbers may differ.

Bounds and widths change with versions of simulators, and from the data to the environment. Shapes, kinds, numbers of
categories and keys must match. The space of the environment decides bounds and dtypes of actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from rmt_rl.trees import Place, keys_of, map_space, nodes, part_at, place_name

AnySpace: TypeAlias = Space[Any]
Array: TypeAlias = NDArray[Any]
_FAMILIES = {"f": "floats", "i": "integers", "u": "integers", "b": "booleans"}  # of dtypes, by NumPy's kind
_LIKE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Difference(NamedTuple):
    """The first part in which two spaces hold other values, and this part of both."""

    name: str
    one: AnySpace
    other: AnySpace


def difference(one: AnySpace, other: AnySpace, name: str) -> Difference | None:
    """Return the first part in which two spaces hold other values; None if values of one fit the other.

    Args:
        one: a space.
        other: another space.
        name: the name of their values, with which the part's name begins.
    """
    for place, part in nodes(one):
        other_part = part_at(other, place)
        if _alike(part, other_part):
            continue
        return Difference(place_name(name, place), part, other_part)
    return None


def _alike(one: AnySpace, other: AnySpace) -> bool:
    """Return True if two spaces are of one kind; the parts of Dicts and Tuples are not compared."""
    if isinstance(one, spaces.Dict | spaces.Tuple):
        return isinstance(other, spaces.Dict | spaces.Tuple) and _same_keys(one, other)
    for kind in _LIKE:
        if isinstance(one, kind) and isinstance(other, kind):
            return _facts(one) == _facts(other)
    return one == other


def _same_keys(one: AnySpace, other: AnySpace) -> bool:
    same_kind = isinstance(one, spaces.Dict) == isinstance(other, spaces.Dict)
    return same_kind and set(keys_of(one)) == set(keys_of(other))


def _facts(space: Any) -> tuple[object, ...]:
    """Return what must be equal in two leaf spaces of one class."""
    match space:
        case spaces.Box():
            return space.shape, _FAMILIES.get(space.dtype.kind)
        case spaces.Discrete():
            return int(space.n), int(space.start)
        case spaces.MultiDiscrete():
            return space.shape, space.nvec.tolist(), space.start.tolist()
        case _:
            return (space.shape,)


def joined(one: AnySpace, other: AnySpace) -> AnySpace:
    """Return the first of two spaces with bounds that hold the values of both; there is no `difference` between them.

    The dtypes stay the first space's, unless only the other's can hold the values of both.
    """
    match one:
        case spaces.Dict():
            parts = [(key, joined(part, part_at(other, (key,)))) for key, part in one.items()]
            return spaces.Dict(parts)
        case spaces.Tuple():
            return spaces.Tuple([joined(part, part_at(other, (index,))) for index, part in enumerate(one)])
        case spaces.Box() if one.dtype.kind != "b" and one != other:
            return _joined_boxes(one, other)
        case _:
            return one


def _joined_boxes(one: spaces.Box, other: Any) -> spaces.Box:
    is_wider = _holds(other.dtype, one) and not _holds(one.dtype, other)
    dtype = other.dtype if is_wider else one.dtype
    low = np.minimum(_cast(one.low, dtype), _cast(other.low, dtype))
    high = np.maximum(_cast(one.high, dtype), _cast(other.high, dtype))
    space: spaces.Box = spaces.Box(low, high, dtype=dtype)
    return space


def _holds(dtype: np.dtype[Any], space: spaces.Box) -> bool:
    """Return True if a dtype of a Box's family can hold its numbers, of floats those that float32 can hold."""
    if dtype.kind == "f":
        return dtype.itemsize >= np.dtype(np.float32).itemsize
    limits = np.iinfo(str(dtype))
    return bool((space.low >= limits.min).all() and (space.high <= limits.max).all())


def _cast(bounds: Array, dtype: np.dtype[Any]) -> Array:
    """Return bounds in another dtype: if it is too small for them, its infinity or its largest integer."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return bounds.astype(dtype)
    limits = np.iinfo(str(dtype))
    clipped: Array = np.clip(bounds.astype(object), limits.min, limits.max)
    return clipped.astype(dtype)


def fit_actions(actions: Any, space: AnySpace) -> Any:
    """Return actions (N, ...) as copies in an environment's dtypes and within its bounds.

    Args:
        actions: arrays, or a dict or tuple of them.
        space: the action space of one environment.
    """

    def fitted(place: Place, leaf: AnySpace) -> Array:
        array = np.asarray(part_at(actions, place))
        if isinstance(leaf, spaces.Box) and leaf.dtype.kind != "b":
            array = np.clip(array, leaf.low, leaf.high)
        return array.astype(leaf.dtype)

    return map_space(fitted, space)
