"""The part of observations that agents learn from: all but texts, such as the missions of MiniGrid.

Texts are left out of data sets and of environments alike: a space without its texts (`learnable_space`) belongs to
values without them (`without_text`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import VectorEnv, VectorObservationWrapper
from gymnasium.vector.utils import batch_space

from rmt_rl.errors import UsageError
from rmt_rl.trees import Place, leaves, part_at, place_name

AnySpace: TypeAlias = Space[Any]
AnyEnv: TypeAlias = gymnasium.Env[Any, Any]
AnyVectorEnv: TypeAlias = VectorEnv[Any, Any, Any]
LeafSpace: TypeAlias = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
"""The spaces of arrays of numbers, truth values or categories, of which Dicts and Tuples are made."""
ReadLeaf: TypeAlias = Callable[[Place, AnySpace], Any]


def is_text(space: AnySpace) -> bool:
    """Return True for a space of strings: Gymnasium's Text, MiniGrid's MissionSpace and the like."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and space.dtype.kind in "US")


def check_kinds(space: AnySpace, name: str, remedy: str) -> None:
    """Raise a UsageError if a space has parts that agents can't be made for.

    Args:
        space: any space.
        name: the name of its values in error messages.
        remedy: the advice for such parts.
    """
    for place, leaf in leaves(space):
        if not isinstance(leaf, LeafSpace):
            raise UsageError(
                f"{place_name(name, place)} has a {type(leaf).__name__} space; only Box, Discrete, MultiDiscrete, "
                f"MultiBinary and Dicts and Tuples of them can be learnt from: {remedy}"
            )


def check_actions(space: AnySpace) -> None:
    """Raise a UsageError if actions have parts that agents can't choose, such as texts."""
    check_kinds(space, "actions", "change actions with gymnasium.wrappers.TransformAction")


def learnable_space(space: AnySpace, name: str = "observations") -> AnySpace:
    """Return a space of observations without its texts; the space itself if it has none.

    Args:
        space: any space.
        name: the name of its values in error messages.

    Raises:
        UsageError: the space is text alone, or has other parts that agents can't be made for.
    """
    if not texts_of(space, name):
        check_kinds(space, name, "leave it out with gymnasium.wrappers.FilterObservation")
        return space
    if not _is_kept(space):
        raise UsageError(
            f"{name} are text alone, {space}, which agents don't learn from; turn the text into numbers, e.g. by "
            "gymnasium.wrappers.TransformObservation"
        )
    parts = {key: learnable_space(part, place_name(name, (key,))) for key, part in _kept_parts(space)}
    return spaces.Dict(parts) if isinstance(space, spaces.Dict) else spaces.Tuple(tuple(parts.values()))


def texts_of(space: AnySpace, name: str = "observations") -> list[str]:
    """Return the names of a space's texts, such as `observations.mission`."""
    return [place_name(name, place) for place, leaf in leaves(space) if is_text(leaf)]


def warn_of_text(space: AnySpace) -> None:
    """Warn of the texts that are left out of observations, in the same words for data and environments."""
    texts = texts_of(space)
    if texts:
        verb = "is text" if len(texts) == 1 else "are texts"
        message = f"{', '.join(texts)} {verb}, which agents don't learn from: left out"
        warnings.warn(message, UserWarning, stacklevel=1)


def map_learnable(read: ReadLeaf, space: AnySpace, place: Place = ()) -> Any:
    """Return a value of `learnable_space(space)` with `read(place in the whole space, leaf space)` as leaves."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return read(place, space)
    values = {key: map_learnable(read, part, (*place, key)) for key, part in _kept_parts(space)}
    return values if isinstance(space, spaces.Dict) else tuple(values.values())


def without_text(value: Any, space: AnySpace) -> Any:
    """Return a value of a space, or a batch of them, without its texts: a value of `learnable_space(space)`."""
    return map_learnable(lambda place, leaf: part_at(value, place), space)


def drop_texts(value: Any, space: AnySpace) -> Any:
    """Return a value, or a batch of them, without the texts that its space doesn't ask for.

    A value of `space` is returned as it is. Other parts that the space doesn't ask for stay too.
    """
    if isinstance(space, spaces.Dict) and isinstance(value, dict):
        wanted = {key: part for key, part in value.items() if key in space.spaces or not _is_text_value(part)}
        return {key: drop_texts(part, space[key]) if key in space.spaces else part for key, part in wanted.items()}
    if isinstance(space, spaces.Tuple) and isinstance(value, tuple):
        if len(value) > len(space):
            value = tuple(part for part in value if not _is_text_value(part))
        if len(value) == len(space):
            return tuple(map(drop_texts, value, space))
    return value


def _is_text_value(value: Any) -> bool:
    """Return True for a string, a batch of strings, or a Dict or Tuple of texts alone."""
    if isinstance(value, dict):
        return bool(value) and all(map(_is_text_value, value.values()))
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(map(_is_text_value, value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.size > 0 and all(isinstance(each, str) for each in value.flat)
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind in "US")


def _kept_parts(space: AnySpace) -> Iterator[tuple[Any, AnySpace]]:
    """Yield the direct parts of a Dict or Tuple that aren't text alone, with their keys."""
    parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)  # type: ignore[arg-type]
    for key, part in parts:
        if _is_kept(part):
            yield key, part


def _is_kept(space: AnySpace) -> bool:
    """Return False for a space of texts alone; an empty Dict or Tuple holds no text."""
    found = [is_text(leaf) for _, leaf in leaves(space)]
    return not found or not all(found)


class WithoutText(gymnasium.ObservationWrapper[Any, Any, Any]):
    """An environment whose observations are without their texts.

    Raises:
        UsageError: the observations are text alone.
    """

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self._whole = env.observation_space
        self.observation_space = learnable_space(self._whole)

    def observation(self, observation: Any) -> Any:
        return without_text(observation, self._whole)


class VectorWithoutText(VectorObservationWrapper):
    """`WithoutText` for a vector environment."""

    def __init__(self, env: AnyVectorEnv) -> None:
        super().__init__(env)
        self._whole = env.single_observation_space
        self.single_observation_space = learnable_space(self._whole)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Any) -> Any:
        return without_text(observations, self._whole)
