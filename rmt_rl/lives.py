"""Lives: a life is several episodes of one task, played as one episode. Names that everything about lives shares.

`rmt_rl.wrappers.Lifetime` makes lives. The info of a step that ends an episode of a life holds:

    episode_of_life   the number of the episode in its life, from 0
    episode_return    the sum of the episode's rewards
    episode_success   True or False; missing if the environment reports no success

An environment whose metadata say `same_task` begins another episode of its task by
`reset(options={"same_task": True})`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from gymnasium.envs.registration import EnvSpec, WrapperSpec

SAME_TASK = "same_task"
EPISODE_OF_LIFE, EPISODE_RETURN, EPISODE_SUCCESS = "episode_of_life", "episode_return", "episode_success"
LIFETIME = "lifetime"
"""The option of every environment that makes lives: the number of episodes."""
SINGLE = 0
"""The lifetime that stands for single episodes where lives are the default."""
PARTS = frozenset({"observation", "previous_reward", "episode_start"})
"""The parts of an observation of a life."""
_WRAPPER = "rmt_rl.wrappers:Lifetime"


def lifetime_wrapper(episodes: int) -> WrapperSpec:
    """Return the spec of the wrapper that makes lives."""
    return WrapperSpec("Lifetime", _WRAPPER, {"episodes": episodes})


class DividedSpec(NamedTuple):
    """Spec of an environment's single episodes, and the options that make lives of them."""

    spec: EnvSpec
    options: dict[str, Any]


def divided_spec(spec: EnvSpec) -> DividedSpec:
    """Divide the spec of an environment, which needn't play lives."""
    wrappers = spec.additional_wrappers
    outermost = wrappers[-1] if wrappers else None
    if outermost is None or outermost.entry_point != _WRAPPER or not outermost.kwargs:
        return DividedSpec(spec, {})
    inner = copy.copy(spec)
    inner.additional_wrappers = wrappers[:-1]
    return DividedSpec(inner, {LIFETIME: outermost.kwargs.get("episodes")})


def ended_episodes(infos: Mapping[str, Any]) -> dict[int, float]:
    """Return the return of each episode of a life that a step ended, by the environment's index.

    Args:
        infos: infos of a step of a vector environment.
    """
    returns = infos.get(EPISODE_RETURN)
    if returns is None:
        return {}
    ended = infos[f"_{EPISODE_RETURN}"].nonzero()[0].tolist()
    return {index: float(returns[index]) for index in ended}
