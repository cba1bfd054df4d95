"""Reading of observations of lives by experts that play them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Seen(NamedTuple):
    """Parts of the observations of n environments.

    Attributes:
        own: the environments' own observations (n, ...).
        rewards: rewards of the step before (n,).
        starts: bool (n,), True where an episode starts, also one of a life.
    """

    own: NDArray[Any]
    rewards: NDArray[Any]
    starts: NDArray[np.bool_]


def seen_of(observation: Any, episode_start: Any) -> Seen:
    """Read observations of lives, or of single episodes, which show no reward; either may have a return-to-go beside.

    Args:
        observation: the observations.
        episode_start: bool (n,), True where a life, or a single episode, starts; None: nowhere.
    """
    has_return = isinstance(observation, Mapping) and "return_to_go" in observation
    lives = observation["observation"] if has_return else observation
    if isinstance(lives, Mapping):
        rewards, starts = np.asarray(lives["previous_reward"])[:, 0], np.asarray(lives["episode_start"]) == 1
        return Seen(np.asarray(lives["observation"]), rewards, starts)
    nowhere = np.zeros(len(lives), bool)
    starts = nowhere if episode_start is None else np.asarray(episode_start, bool)
    return Seen(np.asarray(lives), np.zeros(len(lives)), starts)
