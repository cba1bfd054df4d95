"""Values as files of others hold them become values of a space: reshaped, one-hot to categories, flattened to parts.

Only what has one meaning is accepted:

- exactly the space's shape, or the same with dimensions of size 1 or flattened;
- categories as whole numbers or one-hot;
- images with their channels at the other end;
- Dict and Tuple spaces as Gymnasium's `flatten` makes them, or a Tuple of numbers as one column each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from rmt_rl.categories import Categories, categories
from rmt_rl.data.columns import NUMBERS
from rmt_rl.data.trajectory import Array, Arrays, conform
from rmt_rl.errors import UsageError
from rmt_rl.trees import Place, leaves, map_leaves, map_space, part_at, place_name

_WHOLE = 1e-4  # by which a whole number may be off
_SLACK = 0.01  # by which actions may leave their bounds, as a share of the bounds' distance


def fitted(values: Any, space: Space[Any], name: str, scale: float = 1.0) -> Arrays:
    """Return values of a space.

    Args:
        values: arrays (T, ...), or dicts of them by the keys of a Dict space.
        space: the space.
        name: name of the values in error messages.
        scale: the values are multiplied by it first.

    Raises:
        UsageError: they don't fit the space.
    """
    scaled = values if scale == 1 else map_leaves(lambda array: array * scale, values)
    whole = _as_parts(scaled, space, name)

    def fit(place: Place, leaf: Space[Any]) -> Array:
        return _fitted_leaf(part_at(whole, place), leaf, place_name(name, place))

    return conform(map_space(fit, space), space, name)


def check_actions(actions: Arrays, space: Space[Any]) -> None:
    """Raise a UsageError if actions are outside of the bounds of their Box; the environment would change them."""
    for place, leaf in leaves(space):
        if not isinstance(leaf, spaces.Box) or leaf.dtype.kind != "f":
            continue
        array = np.asarray(part_at(actions, place), np.float64)
        low, high = leaf.low.astype(np.float64), leaf.high.astype(np.float64)
        with np.errstate(invalid="ignore"):
            slack = np.nan_to_num(_SLACK * (high - low), posinf=0.0)
        outside = array[(array < low - slack) | (array > high + slack)]
        if len(outside):
            raise UsageError(
                f"{place_name('actions', place)} holds {outside[0]:g}, which is not in {leaf}; multiply them by "
                "--scale actions=FACTOR, or name the environment that they are from"
            )


def _as_parts(values: Any, space: Space[Any], name: str) -> Any:
    """Return values of a Dict or Tuple space as dicts and tuples, if they are one array."""
    match space:
        case spaces.Dict() if isinstance(values, dict):
            if values.keys() != space.keys():
                found, wanted = sorted(values), sorted(space)
                raise UsageError(f"{name} has the parts {found}; the space asks for {wanted}: name them by --map")
            return {key: _as_parts(values[key], part, f"{name}.{key}") for key, part in space.items()}
        case spaces.Tuple() if isinstance(values, dict):
            numbers = [str(index) for index in range(len(space))]
            if set(values) != set(numbers):
                raise UsageError(f"{name} has the parts {sorted(values)}; the space asks for {numbers}")
            parts = zip(numbers, space, strict=True)
            return tuple(_as_parts(values[key], part, f"{name}.{key}") for key, part in parts)
        case spaces.Dict() | spaces.Tuple():
            return _divided(values, space, name)
    if isinstance(values, dict):
        raise UsageError(f"{name} has the parts {sorted(values)}; the space {space} has none: --map {name}=KEY")
    return values


def _divided(values: Array, space: Space[Any], name: str) -> Any:
    """Divide rows of numbers among the leaves of a Dict or Tuple space."""
    rows = values.reshape(len(values), -1)
    columns = rows.shape[1]
    flat = {place: _flat_size(leaf) for place, leaf in leaves(space)}
    plain = {place: _plain_size(leaf) for place, leaf in leaves(space)}
    sizes = next((sizes for sizes in _divisions(space, flat, plain) if sum(sizes.values()) == columns), None)
    if sizes is None:
        raise UsageError(
            f"{name} has {columns} numbers a step; the space {space} has {sum(flat.values())} as Gymnasium flattens it:"
            f" give as many, or name the parts by --map {name}.KEY=COLUMN"
        )
    ends = np.cumsum(list(sizes.values())).tolist()
    slices = {place: rows[:, end - size : end] for (place, size), end in zip(sizes.items(), ends, strict=True)}
    return map_space(lambda place, leaf: slices[place], space)


def _divisions(space: Space[Any], *sizes: dict[Place, int]) -> list[dict[Place, int]]:
    """Return the sizes by which rows may be divided; the order of numbers is known for Tuples alone."""
    flat, plain = sizes
    is_tuple = all(isinstance(key, int) for place in flat for key in place)
    return [flat, plain] if is_tuple else [flat]


def _plain_size(leaf: Space[Any]) -> int:
    return int(np.prod(leaf.shape or ()))


def _flat_size(leaf: Space[Any]) -> int:
    """Return the numbers of a value as Gymnasium flattens it, categories one-hot."""
    return spaces.flatdim(leaf)


def _fitted_leaf(array: Any, space: Space[Any], name: str) -> Array:
    array = np.asarray(array)
    if array.dtype.kind not in NUMBERS:
        raise UsageError(f"{name} has dtype {array.dtype}; save numbers")
    shape = space.shape or ()
    found = array.shape[1:]
    for fits, convert in _WAYS:
        if fits(found, space):
            return _typed(convert(array, space, name), space, name)
    raise UsageError(
        f"{name} has the shape {found} a step, but the space {space} asks for {shape}; name another column by --map, "
        "or the environment that the data are from"
    )


def _typed(array: Array, space: Space[Any], name: str) -> Array:
    """Return whole numbers as integers where the space has integers."""
    is_whole = np.dtype(space.dtype).kind in "biu"
    if not is_whole or array.dtype.kind != "f":
        return array
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds numbers that aren't finite; drop the episode or mend it")
    rounded = np.rint(array)
    odd = array[np.abs(array - rounded) > _WHOLE]
    if len(odd):
        raise UsageError(
            f"{name} holds {odd[0]:g}, but {space} has whole numbers; --scale {name.partition('.')[0]}=255 turns "
            "images from 0 to 1 into bytes"
        )
    return rounded.astype(np.int64)


# Ways to fit: whether numbers of a shape may be values of a space, and their conversion.

Shape = tuple[int, ...]
Convert = Callable[[Array, Space[Any], str], Array]


def _is_reshaped(found: Shape, space: Space[Any]) -> bool:
    """Return True if shapes are equal but for dimensions of size 1, or if the values are flattened."""
    wanted = _without_ones(space.shape or ())
    sizes = _without_ones(found)
    return sizes in (wanted, _without_ones((int(np.prod(wanted)),)))


def _reshape(array: Array, space: Space[Any], name: str) -> Array:
    return array.reshape(len(array), *(space.shape or ()))


def _is_turned(found: Shape, space: Space[Any]) -> bool:
    """Return True for images whose channels are at the other end."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and found == _turned(space.shape or ())


def _turn(array: Array, space: Space[Any], name: str) -> Array:
    wanted = space.shape or ()
    return np.moveaxis(array, 1, -1) if wanted[-1] < wanted[0] else np.moveaxis(array, -1, 1)


def _turned(wanted: Shape) -> Shape:
    """Return the shape of an image with its channels, of which there are fewer than pixels, at the other end."""
    if wanted[-1] < min(wanted[:-1]):
        return wanted[-1], *wanted[:-1]
    if wanted[0] < min(wanted[1:]):
        return *wanted[1:], wanted[0]
    return ()


def _is_one_hot(found: Shape, space: Space[Any]) -> bool:
    known = _known_categories(space)
    return known is not None and _without_ones(found) == (int(known.sizes.sum()),)


def _decode(array: Array, space: Space[Any], name: str) -> Array:
    known = _known_categories(space)
    assert known is not None
    rows = array.reshape(len(array), -1)
    ends = np.cumsum(known.sizes)
    chosen = []
    for start, size, end in zip(known.starts, known.sizes, ends, strict=True):
        block = rows[:, end - size : end]
        is_one_hot = ((block == 0) | (block == 1)).all(1) & (block.sum(1) == 1)
        if not is_one_hot.all():
            step = int(np.flatnonzero(~is_one_hot)[0])
            raise UsageError(
                f"{name} at step {step} is {block[step].tolist()}, which is no one-hot vector of {size}; save the "
                "categories as whole numbers"
            )
        chosen.append(start + block.argmax(1))
    return np.stack(chosen, 1).reshape(len(array), *(space.shape or ()))


def _known_categories(space: Space[Any]) -> Categories | None:
    is_encoded = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)  # others are flattened as they are
    return categories(space) if is_encoded else None


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


_WAYS: list[tuple[Callable[[Shape, Space[Any]], bool], Convert]] = [
    (_is_reshaped, _reshape),
    (_is_turned, _turn),
    (_is_one_hot, _decode),
]
