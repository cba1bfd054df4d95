"""One episode as NumPy arrays, checked when made.

Observations and actions may be dictionaries and tuples of arrays, like values of Gymnasium's Dict and Tuple spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

from rmt_rl.categories import categories
from rmt_rl.errors import UsageError
from rmt_rl.learnable import LeafSpace
from rmt_rl.numbers import STEPS, Words, check_box, check_plain_numbers
from rmt_rl.trees import Place, leaves, map_leaves, map_space, nodes, part_at, place_name

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Array | dict[str, "Arrays"] | tuple["Arrays", ...]

_OUTCOME_DTYPES = {"rewards": np.float64, "terminations": np.bool_, "truncations": np.bool_}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode of T steps, or T consecutive steps of a longer episode; its arrays are read-only.

    Raises:
        UsageError: no step, lengths that differ, an end before the last step, or a number, or a sum of rewards, that
            is not finite or too large for float32.
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
    later: float = 0.0  # sum of the episode's rewards after these steps
    marks: Mapping[str, int] | None = None  # further facts of the episode, for its metadata in a data set

    def __post_init__(self) -> None:
        for name, dtype in _OUTCOME_DTYPES.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        if self.rewards.ndim != 1 or len(self.rewards) == 0:
            raise UsageError(f"rewards has shape {self.rewards.shape}; give one number a step, (T,) with T >= 1")
        length = len(self)
        self._check_and_lock("observations", length + 1)
        for name in ("actions", *_OUTCOME_DTYPES, *self._annotations()):
            self._check_and_lock(name, length)
        ended = self.terminations | self.truncations
        early_ends = np.flatnonzero(ended[:-1])
        if len(early_ends):
            first = early_ends[0]
            raise UsageError(f"the episode ends at step {first} of {length}; cut it there into two trajectories")
        if not np.isfinite(self.returns_to_go).all():
            raise UsageError("the rewards of the episode add up to more than float32 can hold; scale them down")

    def _check_and_lock(self, name: str, length: int) -> None:
        """Check the arrays of an attribute, and replace them by read-only views."""
        values = getattr(self, name)
        for place, leaf in leaves(values):
            _check_leaf(place_name(name, place), np.asarray(leaf), length)
        object.__setattr__(self, name, map_leaves(_read_only, values))

    def __len__(self) -> int:
        return len(self.rewards)

    def _annotations(self) -> dict[str, Array]:
        """Return the labels of steps that the task gave, by name."""
        labels = {"hindsight": self.hindsight, "decisive": self.decisive, "idle": self.idle}
        return {name: label for name, label in labels.items() if label is not None}

    @cached_property
    def returns_to_go(self) -> npt.NDArray[np.float32]:
        """Undiscounted sum of the episode's rewards from each step on, float32 (T,), summed in float64."""
        from_the_end = np.append(self.later, self.rewards[::-1])
        sums = np.cumsum(from_the_end)
        with np.errstate(over="ignore"):  # the episode is refused
            return sums[:0:-1].astype(np.float32)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all arrays, the returns-to-go included."""
        outcomes = (self.rewards, self.terminations, self.truncations)
        annotations = tuple(self._annotations().values())
        arrays = leaves((self.observations, self.actions, outcomes, annotations))
        bytes_of_returns = 4 * len(self)
        return sum(int(array.nbytes) for _, array in arrays) + bytes_of_returns


def conform(values: Arrays, space: Space[Any], name: str) -> Arrays:
    """Return the values with their keys in the space's order and their arrays in the space's dtypes.

    Args:
        values: arrays (T, *shape of the space's leaf).
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these.
        name: the name of the values in error messages.

    Raises:
        UsageError: the values don't fit the space, or the space is of another kind.
    """
    check_parts(values, space, name)

    def conformed(place: Place, leaf: Any) -> Array:
        return _conform_leaf(part_at(values, place), leaf, place_name(name, place))

    fitting: Arrays = map_space(conformed, space)
    return fitting


def check_parts(values: Any, space: Space[Any], name: str) -> None:
    """Raise a UsageError if a Dict's keys or a Tuple's length differ, or if a leaf's space is of an unknown kind."""
    for place, part in nodes(space):
        _check_kind(part_at(values, place), part, place_name(name, place))


def _check_kind(values: Any, space: Space[Any], name: str) -> None:
    """Raise a UsageError if a Dict's keys or a Tuple's length differ, or if a leaf is of an unknown kind."""
    match space:
        case spaces.Dict():
            if not isinstance(values, Mapping) or values.keys() != space.keys():
                raise UsageError(f"{name} holds {_kind(values)}; its space asks for {_kind(space)}")
        case spaces.Tuple():
            if not isinstance(values, tuple | list) or len(values) != len(space):
                raise UsageError(f"{name} holds {_kind(values)}; its space asks for {_kind(space)}")
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            pass
        case _:
            raise UsageError(
                f"{name} has a {type(space).__name__} space; only Box, Discrete, MultiDiscrete, MultiBinary and "
                "Dicts and Tuples of them can be learnt from: leave it out with gymnasium.wrappers.FilterObservation"
            )


def _conform_leaf(leaf: Arrays, space: LeafSpace, name: str) -> Array:
    """Return an array (T, ...) in the dtype of its space.

    Raises:
        UsageError: its shape or its dtype is not the space's, or a number breaks the rule of `rmt_rl.numbers`.
    """
    if not isinstance(leaf, np.ndarray) or leaf.shape[1:] != space.shape:
        raise UsageError(f"{name} holds {_kind(leaf)}; its space asks for the shape {space.shape} a step")
    dtype = np.dtype(space.dtype)
    are_integers = leaf.dtype.kind in "biu" and dtype.kind in "biu"
    if not are_integers and not np.can_cast(leaf.dtype, dtype, "same_kind"):
        raise UsageError(f"{name} has dtype {leaf.dtype}; its space asks for {dtype}")
    check_values(leaf, space, name, STEPS)
    return leaf.astype(dtype, copy=False)


def check_all_values(values: Any, space: Space[Any], name: str, words: Words) -> None:
    """Raise a UsageError if a part of a value, or of a batch of values, is one that `check_values` refuses.

    Parts of spaces that aren't learnt from, such as texts, aren't looked at.
    """
    for place, leaf in leaves(space):
        if isinstance(leaf, LeafSpace):
            array = np.asarray(part_at(values, place))
            check_values(array, leaf, place_name(name, place), words)


def check_values(leaf: Array, space: LeafSpace, name: str, words: Words) -> None:
    """Raise a UsageError if an array holds numbers that its space can't hold, by the rule of `rmt_rl.numbers`.

    Args:
        leaf: an array (*shape) or (T, *shape).
        space: its space.
        name: its name in error messages.
        words: further words of error messages.
    """
    if isinstance(space, spaces.Box):
        check_box(leaf, space, name, words)
    known = categories(space)
    if known is not None:
        lowest: Array = known.starts.reshape(space.shape)
        highest: Array = known.last.reshape(space.shape)
    elif space.dtype.kind in "iu" and not np.can_cast(leaf.dtype, space.dtype):
        limits = np.iinfo(str(space.dtype))
        lowest, highest = np.array(limits.min), np.array(limits.max)
    else:
        return
    outside = leaf[(leaf < lowest) | (leaf > highest)]
    if len(outside):
        raise UsageError(f"{name} holds {outside[0]}, which is not in {space}; {words.remedy}")


def _check_leaf(name: str, leaf: Array, length: int) -> None:
    """Raise a UsageError if an array doesn't have `length` entries, or holds a number that isn't finite."""
    if leaf.ndim == 0 or len(leaf) != length:
        found = len(leaf) if leaf.ndim else "no"
        raise UsageError(f"{name} has {found} entries, not {length}: T of each but T + 1 observations, for T rewards")
    check_plain_numbers(leaf, name, STEPS)


def _read_only(array: Array) -> Array:
    """Return a view that can't be written to; the caller's own array stays writeable."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _kind(values: Any) -> str:
    """Return words for the form of a value or of a space."""
    if isinstance(values, Mapping):
        return f"the keys {sorted(map(str, values))}"
    if isinstance(values, tuple | spaces.Tuple):
        return f"a tuple of {len(values)}"
    if isinstance(values, list):
        return f"a list of {len(values)}"
    if hasattr(values, "shape"):
        return f"an array {tuple(values.shape)}"
    return f"a value of type {type(values).__name__}"
