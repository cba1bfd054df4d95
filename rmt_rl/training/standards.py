"""Standardised observations and actions: an agent's scales, set from its data before the first update."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from rmt_rl.agent import Agent
from rmt_rl.data.moments import SMALLEST, Moments, moments
from rmt_rl.data.store import EpisodeStore
from rmt_rl.nn.scaling import UNBOUNDED, holds_numbers
from rmt_rl.tokens import scales_of
from rmt_rl.trees import part_at

Floats = NDArray[np.float64]


def standardise(agent: Agent, store: EpisodeStore) -> None:
    """Set an agent's scales from its data, unless its spec asks for none.

    Observations are shifted by their mean and divided by their standard deviation, number by number. Actions are mapped
    to [-1, 1] by their bounds; those without bounds are standardised like observations.
    """
    if not agent.spec.standardised:
        return
    measured = moments(store, holds_numbers, _lacks_bounds)
    observations = scales_of(agent.scales, "observation")
    for place, found in measured.observations.items():
        observations.at(place).set(found.mean, found.deviation)
    actions = scales_of(agent.scales, "action")
    for place in actions.places:
        space = part_at(store.action_space, place)
        shift, factor = _of_actions(space, measured.actions.get(place))
        actions.at(place).set(shift, factor)


class _Bounds(NamedTuple):
    """The middle and half the width of a Box, and which of its numbers are bounded."""

    middle: Floats
    half: Floats
    bounded: NDArray[np.bool_]


def _bounds(space: spaces.Box) -> _Bounds:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (low > -UNBOUNDED) & (high < UNBOUNDED) & (high - low > 2 * SMALLEST)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return _Bounds((low + high) / 2, (high - low) / 2, bounded)


def _lacks_bounds(space: Space[object]) -> bool:
    """Return True for a Box of numbers some of which have no bounds."""
    return isinstance(space, spaces.Box) and holds_numbers(space) and not _bounds(space).bounded.all()


def _of_actions(space: spaces.Box, measured: Moments | None) -> tuple[Floats, Floats]:
    """Return the shift and the factor of actions: by bounds, or by their moments where there are none."""
    middle, half, bounded = _bounds(space)
    if measured is None:
        return middle, half
    return np.where(bounded, middle, measured.mean), np.where(bounded, half, measured.deviation)
