"""Spaces as JSON, without loss.

The format is Minari's, with additions that Minari overlooks when it reads:

- Discrete: `dtype` is the space's own. Minari always writes int64, and always reads int64.
- Box of integers: `bounded_below` and `bounded_above`, if they aren't all true.
- MultiDiscrete: `shape`, which its numbers don't tell if there are none.

So files that hold Minari's own JSON, such as older checkpoints, are read too.
"""

from __future__ import annotations

import json
from textwrap import shorten
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from rmt_rl.errors import UsageError
from rmt_rl.reading import parse_json

Values: TypeAlias = dict[str, Any]
Array: TypeAlias = NDArray[Any]
_ERRORS = (ValueError, KeyError, TypeError, AttributeError, AssertionError, ArithmeticError, RecursionError)
_BOUNDED = ("bounded_below", "bounded_above")


def space_to_json(space: Space[Any]) -> str:
    """Return a space as JSON.

    Raises:
        UsageError: the space, or a part of it, is no Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple.
    """
    return json.dumps(_values(space))


def space_from_json(text: str) -> Space[Any]:
    """Return the space of a JSON of `space_to_json`, or of Minari's.

    Raises:
        ValueError: it is neither.
    """
    try:
        return _space(parse_json(text, finite=False))
    except _ERRORS as error:
        start = shorten(text, 100)
        reason = shorten(str(error), 200)
        raise ValueError(f"{start} is no space of Gymnasium ({type(error).__name__}: {reason})") from error


def _values(space: Space[Any]) -> Values:
    """Return the JSON values of a space; a subclass is stored as Gymnasium's own kind."""
    match space:
        case spaces.Dict():
            parts = {key: _values(part) for key, part in space.items()}
            return {"type": "Dict", "subspaces": parts}
        case spaces.Tuple():
            return {"type": "Tuple", "subspaces": [_values(part) for part in space.spaces]}
        case spaces.Box():
            return _box_values(space)
        case spaces.Discrete():
            return {"type": "Discrete", "dtype": str(space.dtype), "start": int(space.start), "n": int(space.n)}
        case spaces.MultiDiscrete():
            numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", "dtype": str(space.dtype), "shape": list(space.shape), **numbers}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n}
        case spaces.Text():
            lengths = {"max_length": space.max_length, "min_length": space.min_length}
            return {"type": "Text", **lengths, "charset": space.characters}
        case _:
            raise UsageError(
                f"space={space} can't be stored; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these"
            )


def _box_values(space: spaces.Box) -> Values:
    values: Values = {
        "type": "Box",
        "dtype": str(space.dtype),
        "shape": list(space.shape),
        "low": space.low.tolist(),
        "high": space.high.tolist(),
    }
    if space.dtype.kind in "iu":
        for name in _BOUNDED:
            bounded = getattr(space, name)
            if not bounded.all():
                values[name] = bounded.tolist()
    return values


def _space(values: Values) -> Space[Any]:
    kind = values["type"]
    match kind:
        case "Dict":
            # A list of pairs keeps the order of the keys.
            parts = [(key, _space(part)) for key, part in values["subspaces"].items()]
            return spaces.Dict(parts)
        case "Tuple":
            return spaces.Tuple([_space(part) for part in values["subspaces"]])
        case "Box":
            return _box(values)
        case "Discrete":
            return spaces.Discrete(values["n"], start=values["start"], dtype=np.dtype(values["dtype"]))
        case "MultiDiscrete":
            return _multi_discrete(values)
        case "MultiBinary":
            return spaces.MultiBinary(values["n"])
        case "Text":
            lengths = {"max_length": values["max_length"], "min_length": values["min_length"]}
            return spaces.Text(**lengths, charset=values["charset"])
        case _:
            raise ValueError(f"there is no space of type {kind!r}")


def _box(values: Values) -> spaces.Box:
    dtype = np.dtype(values["dtype"])
    shape = tuple(values["shape"])
    low = np.array(values["low"], dtype).reshape(shape)
    high = np.array(values["high"], dtype).reshape(shape)
    space: spaces.Box = spaces.Box(low, high, shape, dtype)
    for name in _BOUNDED:
        if name in values:
            bounded = np.array(values[name], np.bool_)
            setattr(space, name, bounded.reshape(shape))
    return space


def _multi_discrete(values: Values) -> spaces.MultiDiscrete[Any]:
    dtype = np.dtype(values["dtype"])
    nvec: Array = np.array(values["nvec"], dtype)
    start: Array = np.array(values["start"], dtype)
    shape = values.get("shape", nvec.shape)
    return spaces.MultiDiscrete(nvec.reshape(shape), dtype, start=start.reshape(shape))
