"""Checks of spaces before anything is made for them, such as an agent or a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from rmt_rl.errors import UsageError
from rmt_rl.trees import keys_of, leaves, nodes, place_name

_LARGEST = np.iinfo(np.int64).max


def check_spaces(observation_space: Space[Any], action_space: Space[Any]) -> None:
    """Raise a UsageError if nothing can be made for observations or actions of these spaces, whatever their kinds.

    An action must hold a number, and none of its Dicts and Tuples may be empty: Gymnasium's vector environments can't
    hand out such actions.
    """
    check_space("observation_space", observation_space)
    check_space("action_space", action_space)
    for place, node in nodes(action_space):
        if isinstance(node, spaces.Dict | spaces.Tuple) and not keys_of(node):
            raise UsageError(f"{place_name('action_space', place)}={node} has no part; leave it out of the actions")
    sizes = [np.prod(leaf.shape or ()) for _, leaf in leaves(action_space)]
    if not any(sizes):
        raise UsageError(f"action_space={action_space} holds no number, so there is nothing to choose; give it a size")


def check_space(name: str, space: Space[Any]) -> None:
    """Raise a UsageError if a space has parts that nothing can be made for, whatever their kind.

    Such parts are Dict keys that aren't strings, floats of more than 64 bits, and categories that don't fit into their
    dtype or into int64. The space must have at least one part, so that the size of a batch can be seen.

    Args:
        name: the name of the space in error messages, such as `observation_space`.
        space: the space of observations or actions.
    """
    if not any(True for _ in leaves(space)):
        raise UsageError(f"{name}={space} has no part; give it a Box, Discrete, MultiDiscrete or MultiBinary")
    for place, node in nodes(space):
        part = place_name(name, place)
        match node:
            case spaces.Dict():
                _check_keys(part, node)
            case spaces.Box():
                _check_width(part, node)
            case spaces.Discrete():
                _check_range(part, node, int(node.start) + int(node.n) - 1)
            case spaces.MultiDiscrete():
                sums = node.start.astype(object) + node.nvec.astype(object) - 1
                _check_range(part, node, max(np.ravel(sums), default=0))


def _check_keys(part: str, space: spaces.Dict) -> None:
    for key in keys_of(space):
        if not isinstance(key, str):
            raise UsageError(f"{part} has the key {key!r} of type {type(key).__name__}; use strings as keys of a Dict")


def _check_width(part: str, space: spaces.Box) -> None:
    if space.dtype.itemsize > 8:
        raise UsageError(f"{part} has dtype {space.dtype}; use float64 or a smaller dtype")


def _check_range(part: str, space: Space[Any], largest: int) -> None:
    if space.dtype is None:
        return
    limit = min(int(np.iinfo(space.dtype).max), _LARGEST)
    if largest > limit:
        raise UsageError(
            f"{part}={space} reaches {largest}, but the largest {space.dtype} that can be used is {limit}; use a "
            "larger dtype or a smaller start"
        )
