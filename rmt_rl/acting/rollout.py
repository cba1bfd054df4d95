"""The one loop in which a policy acts in an environment; evaluation and data collection both run it.

Shape suffix: N lanes. A lane is one environment of the vector environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rmt_rl.errors import UsageError
from rmt_rl.machine import check_fits
from rmt_rl.task import Options, Policy, Privileged, Task, task_config
from rmt_rl.trees import map_leaves
from rmt_rl.wrappers import require_next_step

Bools = NDArray[np.bool_]
VecEnv: TypeAlias = VectorEnv[Any, Any, Any]


NUMBERS = 32  # bytes of an environment among others of a task's own vector, at least
OBJECT = 2048  # bytes of an environment that is a Python object, at least (4,700 measured of CartPole)


class Step(NamedTuple):
    """One step of a vector environment, in every lane.

    Observations and actions are arrays, or dicts and tuples of them. Ignore the other fields where `counted` is False:
    the lane was only being reset, or had played its share before.
    """

    observations: Any  # (N, ...) given to the policy
    actions: Any  # (N, ...)
    rewards: NDArray[Any]  # (N,)
    terminations: Bools  # (N,)
    truncations: Bools  # (N,)
    next_observations: Any  # (N, ...) where an episode ends: its last observation
    starts: Bools  # (N,) the step is an episode's first
    ends: Bools  # (N,) the step is a counted episode's last
    counted: Bools  # (N,) the step belongs to an episode that counts
    infos: dict[str, Any]


def make_vec_env(task: Task, options: Options, num_envs: int) -> VecEnv:
    """Return a vector environment of `num_envs` lanes with next-step autoreset, the task's own where it has one.

    Raises:
        UsageError: an option is unknown or its value is out of range.
    """
    fields = dict(task_config(task, options))
    make_vec: Callable[..., VecEnv] | None = getattr(task, "make_vec", None)
    bytes_of_each = OBJECT if make_vec is None else NUMBERS
    check_fits(f"{num_envs} environments at once: playing them", num_envs * bytes_of_each, "play fewer at once")
    if make_vec is not None:
        return make_vec(num_envs, **fields)
    make = partial(task.make, **fields)
    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


def shares(episodes: int, lanes: int) -> NDArray[np.int64]:
    """Return how many episodes each lane plays, int64 (lanes,): as even as can be, the first lanes one more.

    The share is fixed beforehand, since taking the first episodes that end, in whichever lane, favours short ones.
    """
    share, remainder = divmod(episodes, lanes)
    plays_one_more = np.arange(lanes) < remainder
    return share + plays_one_more


def rollout(policy: Policy, env: VecEnv, episodes: int, seed: int | None, deterministic: bool = True) -> Iterator[Step]:
    """Play whole episodes, in each lane a number fixed beforehand, and yield every step of the vector environment.

    Observations are not copied. A consumer may keep them only if the environment returns new arrays in every step, as
    Gymnasium's own do.

    Args:
        policy: acts in all lanes at once.
        env: has next-step autoreset; it is not closed.
        episodes: number of episodes, in all lanes together.
        seed: seed of the environment's reset; None draws a fresh one.
        deterministic: passed to the policy.

    Raises:
        UsageError: `episodes` is less than 1, or the environment's autoreset mode is another one.
    """
    require_next_step(env)
    if episodes < 1:
        raise UsageError(f"episodes = {episodes}: at least 1 is needed")
    if isinstance(policy, Privileged):
        policy.attach(env)
    left = shares(episodes, env.num_envs)
    starts = np.ones(env.num_envs, bool)
    resets = np.zeros(env.num_envs, bool)
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
        starts = resets
        resets = done
        observations = next_observations
        left -= ends
        playing = left > 0
