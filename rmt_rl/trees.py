"""Values of Dict and Tuple spaces: nested dictionaries and tuples of leaves, such as arrays, tensors or spaces.

States of cores are another kind of tree, tuples of tensors alone: see `rmt_rl.recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from gymnasium import Space, spaces

Key = str | int
Place = tuple[Key, ...]
"""The keys and indices that lead from a value to one of its leaves."""

LeafT = TypeVar("LeafT")


def map_leaves(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """Return the value of `function(leaf, *leaves of the others at the same place)`."""
    if isinstance(value, dict):
        return {key: map_leaves(function, part, *(other[key] for other in others)) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map_leaves(function, *parts) for parts in zip(value, *others, strict=True))
    return function(value, *others)


def nodes(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield a value and all its parts down to the leaves, each with its place, wholes before their parts."""
    yield place, value
    for key, part in _parts(value) or ():
        yield from nodes(part, (*place, key))


def leaves(value: Any) -> Iterator[tuple[Place, Any]]:
    """Yield every leaf of a value or of a space with its place, in order."""
    return ((place, node) for place, node in nodes(value) if _parts(node) is None)


def _parts(value: Any) -> list[tuple[Key, Any]] | None:
    """Return the parts of a value or of a space by key; None for a leaf."""
    if isinstance(value, dict | spaces.Dict):
        return list(value.items())
    if isinstance(value, tuple | spaces.Tuple):
        return list(enumerate(value))
    return None


def children(value: Any) -> list[Key]:
    """Return the keys of a value's, or of a space's, own parts; a leaf has none."""
    return [key for key, _ in _parts(value) or ()]


def part_at(value: Any, place: Place) -> Any:
    """Return the part of a value or of a space at a place."""
    for key in place:
        value = value[key]
    return value


def map_space(function: Callable[[Place, Space[Any]], LeafT], space: Space[Any], place: Place = ()) -> Any:
    """Return a value of the space with `function(place, leaf space)` as leaves, keys in the space's order."""
    if isinstance(space, spaces.Dict):
        return {key: map_space(function, part, (*place, key)) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(map_space(function, part, (*place, index)) for index, part in enumerate(space))
    return function(place, space)


def named(name: str, place: Place) -> str:
    """Return what errors call a leaf, such as `observations.image` or `actions[1]`."""
    return name + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
