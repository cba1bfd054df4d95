"""The head of an action space, and the choice of a family of distributions for Boxes of numbers."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Literal, TypeGuard

import numpy as np
from gymnasium import spaces

from rmt_rl.categories import categories
from rmt_rl.errors import UsageError
from rmt_rl.nn.heads.base import Head, Nothing
from rmt_rl.nn.heads.bins import Bins
from rmt_rl.nn.heads.categorical import Categorical
from rmt_rl.nn.heads.continuous import Continuous
from rmt_rl.nn.heads.gaussian import Gaussian
from rmt_rl.nn.heads.joint import Joint
from rmt_rl.nn.heads.mixture import Mixture
from rmt_rl.nn.scaling import has_bounds
from rmt_rl.trees import leaves

HeadName = Literal["auto", "gaussian", "bins", "mixture"]
FAMILIES: dict[HeadName, type[Continuous]] = {"auto": Bins, "gaussian": Gaussian, "bins": Bins, "mixture": Mixture}
"""The families for Boxes of floats, by name."""


def head(space: spaces.Space[Any], scales: Any = None, family: HeadName = "auto") -> Head:
    """Return the head of an action space: Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple of these.

    Args:
        space: the action space.
        scales: a value of the space with a `Scale` or None at every leaf; None scales nothing.
        family: the distribution of Boxes of floats, a name of `FAMILIES`. Boxes whose bounds don't suffice for it are
            Gaussian, and so are Boxes of integers.

    Raises:
        UsageError: the space is of another kind, or the family needs bounds and no Box has them.
    """
    families = {_family_of(leaf, family) for _, leaf in leaves(space) if _holds_floats(leaf)}
    if family != "auto" and families and FAMILIES[family] not in families:
        raise UsageError(
            f"head={family!r} divides the range of actions, but action space={space} has none; choose 'gaussian', "
            "'mixture' or 'auto'"
        )
    return _head(space, scales, family)


def _holds_floats(space: spaces.Space[Any]) -> TypeGuard[spaces.Box]:
    return isinstance(space, spaces.Box) and space.dtype.kind == "f" and 0 not in space.shape


def _family_of(space: spaces.Box, name: HeadName) -> type[Continuous]:
    """Return the family of a Box: the named one, or the Gaussian where that one doesn't fit."""
    family = FAMILIES[name]
    needs_bounds = family.needs_bounds or name == "auto"
    fits = has_bounds(space) if needs_bounds else _holds_floats(space)
    return family if fits else Gaussian


@singledispatch
def _head(space: spaces.Space[Any], scales: Any, family: HeadName) -> Head:
    raise UsageError(
        f"action space={space} has no head; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these"
    )


@_head.register(spaces.Box)
@_head.register(spaces.Discrete)
@_head.register(spaces.MultiBinary)
@_head.register(spaces.MultiDiscrete)
def _(
    space: spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete[Any],
    scales: Any,
    family: HeadName,
) -> Head:
    if np.prod(space.shape or ()) == 0:
        return Nothing(space)
    variables = categories(space)
    if variables is not None:
        return Categorical(space, variables)
    assert isinstance(space, spaces.Box)
    make = _family_of(space, family)
    return make(space, scales)


@_head.register(spaces.Dict)
def _(space: spaces.Dict, scales: Any, family: HeadName) -> Head:
    parts = {}
    for key in sorted(space):  # sorted: see the encoder of a Dict
        parts[key] = _head(space[key], scales and scales[key], family)
    return Joint(parts, dict)


@_head.register(spaces.Tuple)
def _(space: spaces.Tuple[Any], scales: Any, family: HeadName) -> Head:
    parts = {}
    for index, part in enumerate(space.spaces):
        parts[index] = _head(part, scales and scales[index], family)
    return Joint(parts, tuple)
