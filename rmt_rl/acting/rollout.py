"""The one loop in which a policy acts in an environment; evaluation and data collection both run it.

Shape suffixes: N lanes, the environments of a vector environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.trees import map_leaves

if TYPE_CHECKING:
    from rmt_rl.task import Task

Bools = NDArray[np.bool_]


class Policy(Protocol):
    """Anything that acts, with the signature of Stable-Baselines3's `predict`."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose an action in every lane.

        Args:
            observation: arrays (N, ...), or a dict or tuple of them.
            state: what the previous call returned; None in the first call.
            episode_start: bool (N,), the lanes whose observation is the first of an episode.
            deterministic: take the most likely action instead of sampling.

        Returns:
            Actions (N, ...) and the state to give back with the next observation.
        """


@runtime_checkable
class Privileged(Protocol):
    """A policy that looks into the simulators instead of at observations, as experts may."""

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Take hold of the environments to act in; called before they are reset."""


class Step(NamedTuple):
    """What happened in every lane when a vector environment made one step.

    Observations and actions are arrays, or dicts and tuples of them. Where `counted` is False nothing else holds: the
    lane was only being reset, or had played its share before.
    """

    observations: Any  # (N, ...) what the policy saw
    actions: Any  # (N, ...)
    rewards: NDArray[Any]  # (N,)
    terminations: Bools  # (N,)
    truncations: Bools  # (N,)
    next_observations: Any  # (N, ...) where an episode ends: its last observation
    starts: Bools  # (N,) the step is an episode's first
    ends: Bools  # (N,) the step is a counted episode's last
    counted: Bools  # (N,) the step belongs to an episode that counts
    infos: dict[str, Any]


def make_vec_env(task: Task, options: Mapping[str, Any], num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Return `num_envs` lanes of a task, natively vectorised where the task can, with next-step autoreset.

    Raises:
        UsageError: an option is unknown or its value is out of range.
    """
    validated(task.Config, options)
    make_vec = getattr(task, "make_vec", None)
    env: VectorEnv[Any, Any, Any]
    if make_vec is not None:
        env = make_vec(num_envs, **options)
    else:
        env = SyncVectorEnv([lambda: task.make(**options)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    return env


def require_next_step(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse a vector environment that does not reset a lane in the step after its episode's end.

    Raises:
        UsageError: the environment's autoreset mode is another one, or isn't declared.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise UsageError(f"{env} has autoreset_mode = {mode}; make it with AutoresetMode.NEXT_STEP")


def shares(episodes: int, lanes: int) -> NDArray[np.int64]:
    """Return how many episodes each lane plays, int64 (lanes,): as even as can be, the first lanes one more.

    The share is fixed beforehand, since taking the first episodes that end, in whichever lane, favours short ones.
    """
    return episodes // lanes + (np.arange(lanes) < episodes % lanes)


def rollout(
    policy: Policy, env: VectorEnv[Any, Any, Any], episodes: int, seed: int | None, deterministic: bool = True
) -> Iterator[Step]:
    """Play whole episodes, each lane a share fixed beforehand, and yield every step of the vector environment.

    Observations are handed on, not copied: a consumer that keeps them needs an environment that returns new arrays
    (Gymnasium's own do).

    Args:
        policy: acts in all lanes at once.
        env: has next-step autoreset; it is not closed.
        episodes: in all lanes together.
        seed: of the environment's reset; None draws a fresh one.
        deterministic: handed on to the policy.

    Raises:
        UsageError: `episodes` is less than 1, or the environment's autoreset mode is another one.
    """
    require_next_step(env)
    if episodes < 1:
        raise UsageError(f"episodes = {episodes}: at least 1 is needed")
    if isinstance(policy, Privileged):
        policy.attach(env)
    left = shares(episodes, env.num_envs)
    starts, resets = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool)
    observations, _ = env.reset(seed=seed)
    state = None
    playing = left > 0
    while playing.any():
        actions, state = policy.predict(observations, state, starts, deterministic)
        played = map_leaves(np.copy, actions)  # an environment may change what it is given
        next_observations, rewards, terminations, truncations, infos = env.step(played)
        counted = playing & ~resets
        done = terminations | truncations
        ends = done & counted
        yield Step(
            observations, actions, rewards, terminations, truncations, next_observations, starts, ends, counted, infos
        )
        # Where this step reset the lane, its action and reward were void and the next observation begins an episode.
        starts, resets = resets, done
        observations = next_observations
        left -= ends
        playing = left > 0
