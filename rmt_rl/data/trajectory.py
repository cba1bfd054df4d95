"""One episode as NumPy arrays, checked when made.

Observations and actions may be dictionaries and tuples of arrays, like values of Gymnasium's Dict and Tuple spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

from rmt_rl.errors import UsageError
from rmt_rl.trees import Place, leaves, map_leaves, map_space, named, nodes, part_at

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Array | dict[str, "Arrays"] | tuple["Arrays", ...]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One episode of T steps, or T consecutive ones of it; its arrays are read-only.

    Raises:
        UsageError: no step, lengths that differ, an end before the last step, or a number that is not finite.
    """

    observations: Arrays  # (T + 1, ...): the last one follows the final action
    actions: Arrays  # (T, ...)
    rewards: Array  # (T,) float64
    terminations: Array  # (T,) bool
    truncations: Array  # (T,) bool
    seed: int | None = None  # of the reset that began the episode
    hindsight: Array | None = None  # (T,) int64 classes that the rest of the episode reveals, -1 for none
    decisive: Array | None = None  # (T,) bool, steps whose action depends on what must be remembered
    idle: Array | None = None  # (T,) bool, steps that show nothing that must be remembered
    later: float = 0.0  # sum of the rewards after these steps, where they aren't all of their episode

    def __post_init__(self) -> None:
        for field, dtype in (("rewards", np.float64), ("terminations", np.bool_), ("truncations", np.bool_)):
            object.__setattr__(self, field, np.asarray(getattr(self, field), dtype))
        if self.rewards.ndim != 1 or len(self.rewards) == 0:
            raise UsageError(f"rewards has shape {self.rewards.shape}; give one number a step, (T,) with T >= 1")
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            values = getattr(self, field)
            for place, leaf in leaves(values):
                _check(named(field, place), np.asarray(leaf), len(self) + (field == "observations"))
            object.__setattr__(self, field, _read_only(values))
        for field, declared in self._declared().items():
            _check(field, declared, len(self))
            object.__setattr__(self, field, _read_only(declared))
        ends = np.flatnonzero(self.terminations[:-1] | self.truncations[:-1])
        if len(ends):
            raise UsageError(f"the episode ends at step {ends[0]} of {len(self)}; cut it there into two trajectories")

    def __len__(self) -> int:
        return len(self.rewards)

    def _declared(self) -> dict[str, Array]:
        """What the task tells of the steps, where it tells anything."""
        told = {"hindsight": self.hindsight, "decisive": self.decisive, "idle": self.idle}
        return {name: array for name, array in told.items() if array is not None}

    @cached_property
    def returns_to_go(self) -> npt.NDArray[np.float32]:
        """Undiscounted sum of the episode's rewards from each step on, float32 (T,), summed in float64."""
        return np.cumsum(np.append(self.later, self.rewards[::-1]))[:0:-1].astype(np.float32)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all arrays, the returns-to-go included."""
        own = (self.observations, self.actions, self.rewards, self.terminations, self.truncations)
        arrays = leaves((*own, *self._declared().values()))
        return sum(int(leaf.nbytes) for _, leaf in arrays) + 4 * len(self)


def conform(values: Arrays, space: Space[Any], name: str) -> Arrays:
    """Return the values with their keys in the space's order and their arrays in the space's dtypes.

    Args:
        values: arrays (T, *shape of the space's leaf).
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these.
        name: what the values are called in errors.

    Raises:
        UsageError: the values don't fit the space, or the space is of another kind.
    """
    for place, part in nodes(space):
        _check_kind(part_at(values, place), part, named(name, place))

    def conformed(place: Place, leaf: Any) -> Array:
        return _conform_leaf(part_at(values, place), leaf, named(name, place))

    fitting: Arrays = map_space(conformed, space)
    return fitting


def _check_kind(values: Arrays, space: Space[Any], name: str) -> None:
    """Raise a UsageError if a Dict's keys or a Tuple's length differ, or if a leaf is of a kind that isn't known."""
    match space:
        case spaces.Dict():
            if not isinstance(values, dict) or values.keys() != space.keys():
                raise UsageError(f"{name} holds {_kind(values)}; its space asks for the keys {sorted(space.keys())}")
        case spaces.Tuple():
            if not isinstance(values, tuple) or len(values) != len(space):
                raise UsageError(f"{name} holds {_kind(values)}; its space asks for a tuple of {len(space)}")
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            pass
        case _:
            raise UsageError(
                f"{name} has a {type(space).__name__} space; only Box, Discrete, MultiDiscrete, MultiBinary and "
                "Dicts and Tuples of them can be learnt from: leave it out with gymnasium.wrappers.FilterObservation"
            )


def _conform_leaf(
    leaf: Arrays, space: spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary, name: str
) -> Array:
    if not isinstance(leaf, np.ndarray) or leaf.shape[1:] != space.shape:
        raise UsageError(f"{name} holds {_kind(leaf)}; its space asks for the shape {space.shape} a step")
    dtype = np.dtype(space.dtype)
    if not np.can_cast(leaf.dtype, dtype, "same_kind"):
        raise UsageError(f"{name} has dtype {leaf.dtype}; its space asks for {dtype}")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        count = space.n if isinstance(space, spaces.Discrete) else space.nvec
        outside = leaf[(leaf < space.start) | (leaf >= space.start + count)]
        if len(outside):
            raise UsageError(f"{name} holds {outside[0]}, which is not in {space}")
    return leaf.astype(dtype, copy=False)


def _check(name: str, leaf: Array, length: int) -> None:
    if leaf.ndim == 0 or len(leaf) != length:
        found = len(leaf) if leaf.ndim else "no"
        raise UsageError(f"{name} has {found} entries, not {length}: T of each but T + 1 observations, for T rewards")
    if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
        step = int(np.argwhere(~np.isfinite(leaf))[0][0])
        raise UsageError(f"{name} is not finite at step {step}; drop this episode or mend the environment")


def _read_only(values: Arrays) -> Arrays:
    """Return views that can't be written to; the caller's own arrays stay writeable."""

    def view(leaf: Array) -> Array:
        read_only = np.asarray(leaf).view()
        read_only.flags.writeable = False
        return read_only

    viewed: Arrays = map_leaves(view, values)
    return viewed


def _kind(values: Arrays) -> str:
    if isinstance(values, dict):
        return f"the keys {sorted(values)}"
    return f"a tuple of {len(values)}" if isinstance(values, tuple) else f"an array {np.shape(values)}"
