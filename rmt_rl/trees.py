"""Values of Dict and Tuple spaces: nested dictionaries and tuples of leaves, such as arrays, tensors or spaces.

States of cores are another kind of tree, tuples of tensors alone: see `rmt_rl.recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
from gymnasium import Space, spaces

Key = str | int
Place = tuple[Key, ...]
"""The keys and indices that lead from a value to one of its parts."""

Keyed: TypeAlias = list[tuple[Key, Any]]
"""Parts with their keys or indices."""
Placed: TypeAlias = Iterator[tuple[Place, Any]]
"""Parts with their places."""

LeafT = TypeVar("LeafT")

_MAPPINGS = (dict, spaces.Dict)
_SEQUENCES = (tuple, spaces.Tuple)
_BRANCHES = (*_MAPPINGS, *_SEQUENCES)


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


def nodes(value: Any, place: Place = ()) -> Placed:
    """Yield a value or a space, and all its parts down to the leaves, each with its place and before its own parts."""
    yield place, value
    for key, part in _parts(value):
        yield from nodes(part, (*place, key))


def leaves(value: Any) -> Placed:
    """Yield every leaf of a value or of a space with its place, in order."""
    for place, node in nodes(value):
        if not isinstance(node, _BRANCHES):
            yield place, node


def keys_of(value: Any) -> list[Key]:
    """Return the keys of the direct parts of a value or of a space; a leaf has none."""
    return [key for key, _ in _parts(value)]


def _parts(value: Any) -> Keyed:
    """Return the direct parts of a value or of a space with their keys; a leaf has none."""
    if isinstance(value, _MAPPINGS):
        return list(value.items())
    if isinstance(value, _SEQUENCES):
        return list(enumerate(value))
    return []


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
    if not isinstance(space, _BRANCHES):
        return function(place, space)
    mapped = {}
    for key, part in _parts(space):
        inner = (*place, key)
        mapped[key] = map_space(function, part, inner)
    return mapped if isinstance(space, spaces.Dict) else tuple(mapped.values())


def bytes_of(space: Space[Any]) -> int:
    """Return the bytes of one value of a space, as arrays; the space's parts have shapes and dtypes."""
    return sum(int(np.prod(leaf.shape or ())) * np.dtype(leaf.dtype).itemsize for _, leaf in leaves(space))


def with_keys(rename: Callable[[str], str], value: Any) -> Any:
    """Return a value or a space whose Dict keys are renamed, at every depth."""
    renamed: list[tuple[Any, Any]] = []
    for key, part in _parts(value):
        new_key = rename(key) if isinstance(key, str) else key
        renamed.append((new_key, with_keys(rename, part)))
    match value:
        case dict():
            return dict(renamed)
        case spaces.Dict():
            return spaces.Dict(renamed)
        case tuple():
            return tuple(part for _, part in renamed)
        case spaces.Tuple():
            return spaces.Tuple([part for _, part in renamed])
        case _:
            return value


def place_name(name: str, place: Place) -> str:
    """Return the words for a part in error messages: `observations.image`, `observations['a/b']` or `actions[1]`."""
    for key in place:
        is_plain = isinstance(key, str) and key.isidentifier()
        name += f".{key}" if is_plain else f"[{key!r}]"
    return name
