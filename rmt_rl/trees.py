"""Values of Dict and Tuple spaces: nested dictionaries and tuples of leaves, such as arrays, tensors or spaces.

States of cores are another kind of tree, tuples of tensors alone: see `rmt_rl.recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from gymnasium import Space, spaces

Key = str | int
Place = tuple[Key, ...]
"""The keys and indices that lead from a value to one of its parts."""

LeafT = TypeVar("LeafT")


def map_leaves(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """Return the value of `function(leaf, *leaves of the others at the same place)`."""
    if isinstance(value, dict):
        mapped = {}
        for key, part in value.items():
            other_parts = [other[key] for other in others]
            mapped[key] = map_leaves(function, part, *other_parts)
        return mapped
    if isinstance(value, tuple):
        rows = zip(value, *others, strict=True)
        return tuple(map_leaves(function, *parts) for parts in rows)
    return function(value, *others)


def nodes(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield a value or a space, and all its parts down to the leaves, each with its place and before its own parts."""
    yield place, value
    for key, part in _parts(value) or ():
        yield from nodes(part, (*place, key))


def leaves(value: Any) -> Iterator[tuple[Place, Any]]:
    """Yield every leaf of a value or of a space with its place, in order."""
    for place, node in nodes(value):
        if _parts(node) is None:
            yield place, node


def keys_of(value: Any) -> list[Key]:
    """Return the keys of the direct parts of a value or of a space; a leaf has none."""
    return [key for key, _ in _parts(value) or ()]


def _parts(value: Any) -> list[tuple[Key, Any]] | None:
    """Return the direct parts of a value or of a space with their keys; None for a leaf."""
    if isinstance(value, dict | spaces.Dict):
        return list(value.items())
    if isinstance(value, tuple | spaces.Tuple):
        return list(enumerate(value))
    return None


def part_at(value: Any, place: Place) -> Any:
    """Return the part of a value or of a space at a place."""
    for key in place:
        value = value[key]
    return value


def map_space(
    function: Callable[[Place, Space[Any]], LeafT],
    space: Space[Any],
    place: Place = (),
) -> Any:
    """Return a value of the space with `function(place, leaf space)` as leaves, keys in the space's order."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return function(place, space)
    mapped = {}
    for key, part in _parts(space) or ():
        mapped[key] = map_space(function, part, (*place, key))
    return mapped if isinstance(space, spaces.Dict) else tuple(mapped.values())


def place_name(name: str, place: Place) -> str:
    """Return the words for a part in error messages, such as `observations.image` or `actions[1]`."""
    steps = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in place]
    return name + "".join(steps)
