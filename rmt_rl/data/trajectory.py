"""One episode as NumPy arrays, checked when made.

Observations and actions may be trees: dictionaries and tuples of arrays, as Gymnasium's Dict and Tuple spaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

from rmt_rl.errors import UsageError

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
            tree = getattr(self, field)
            for name, leaf in named_leaves(tree, field):
                _check(name, leaf, len(self) + (field == "observations"))
            object.__setattr__(self, field, _read_only(tree))
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
        trees = [*own, *self._declared().values()]
        return sum(leaf.nbytes for tree in trees for _, leaf in named_leaves(tree, "")) + 4 * len(self)


def named_leaves(tree: Arrays, name: str) -> Iterator[tuple[str, Array]]:
    """Every array of the tree with its place in it, such as `observations.image` or `actions[1]`."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from named_leaves(branch, f"{name}.{key}")
    elif isinstance(tree, tuple):
        for index, branch in enumerate(tree):
            yield from named_leaves(branch, f"{name}[{index}]")
    else:
        yield name, np.asarray(tree)


def conform(tree: Arrays, space: Space[Any], name: str) -> Arrays:
    """The tree with its keys in the space's order and its arrays in the space's dtypes.

    Args:
        tree: arrays (T, *shape of the space's leaf).
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these.
        name: what the tree is called in errors.

    Raises:
        UsageError: the tree doesn't fit the space, or the space is of another kind.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(tree, dict) or tree.keys() != space.keys():
            raise UsageError(f"{name} holds {_kind(tree)}; its space asks for the keys {sorted(space.keys())}")
        return {key: conform(tree[key], part, f"{name}.{key}") for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(tree, tuple) or len(tree) != len(space):
            raise UsageError(f"{name} holds {_kind(tree)}; its space asks for a tuple of {len(space)}")
        return tuple(conform(part, of, f"{name}[{i}]") for i, (part, of) in enumerate(zip(tree, space, strict=True)))
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise UsageError(
            f"{name} has a {type(space).__name__} space; only Box, Discrete, MultiDiscrete, MultiBinary and "
            "Dicts and Tuples of them can be learnt from: leave it out with gymnasium.wrappers.FilterObservation"
        )
    return _conform_leaf(tree, space, name)


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


def _read_only(tree: Arrays) -> Arrays:
    if isinstance(tree, dict):
        return {key: _read_only(branch) for key, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_read_only(branch) for branch in tree)
    view = np.asarray(tree).view()  # the caller's own array stays writeable
    view.flags.writeable = False
    return view


def _kind(tree: Arrays) -> str:
    if isinstance(tree, dict):
        return f"the keys {sorted(tree)}"
    return f"a tuple of {len(tree)}" if isinstance(tree, tuple) else f"an array {np.shape(tree)}"
