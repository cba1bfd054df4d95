"""The one loop in which a policy acts in an environment; evaluation and data collection both run it.

Shape suffix: N lanes. A lane is one environment of the vector environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from gymnasium import Env as GymnasiumEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray

from rmt_rl.config import Frozen
from rmt_rl.data.trajectory import check_all_values
from rmt_rl.environments import ACTION_MASK, make_env, stacked_masks
from rmt_rl.errors import UsageError
from rmt_rl.learnable import VectorWithoutText, texts_of, warn_of_text
from rmt_rl.machine import check_fits
from rmt_rl.numbers import Words, check_plain_numbers
from rmt_rl.space_fit import fit_actions
from rmt_rl.task import Options, Policy, Task, divided, is_privileged, takes_masks, task_config
from rmt_rl.trees import leaves, map_leaves, map_space, part_at
from rmt_rl.wrappers import VectorLifetime, require_next_step

Bools = NDArray[np.bool_]
Env: TypeAlias = GymnasiumEnv[Any, Any]
VecEnv: TypeAlias = VectorEnv[Any, Any, Any]
_FROM_ENV = Words("mend the environment", row="in environment")
_FROM_POLICY = Words("mend the policy", row="in environment")


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
    config = task_config(task, options)
    arguments, lifetime = divided(task, config)
    make_vec = _native(task, lifetime)
    bytes_of_each = OBJECT if make_vec is None else NUMBERS
    check_fits(f"{num_envs} environments at once: playing them", num_envs * bytes_of_each, "play fewer at once")
    if make_vec is None:
        make = partial(_made, task, config)
        return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = make_vec(num_envs, **arguments)
    if texts_of(env.single_observation_space):
        warn_of_text(env.single_observation_space)
        env = VectorWithoutText(env)
    return env if lifetime is None else VectorLifetime(env, lifetime)


def _native(task: Task, lifetime: int | None) -> Callable[..., VecEnv] | None:
    """Return the task's own `make_vec`; None if it has none, or if it can't play lives and should."""
    make_vec: Callable[..., VecEnv] | None = getattr(task, "make_vec", None)
    plays_lives = hasattr(make_vec, "begin_again")
    return make_vec if lifetime is None or plays_lives else None


def _made(task: Task, config: Frozen) -> Env:
    env: Env = make_env(task, config)
    return with_array_actions(env)


def with_array_actions(env: Env) -> Env:
    """Return an environment that gets arrays as actions, also those without a dimension.

    Gymnasium's vector environments hand out the rows of a batch, which are numbers if the batch is (N,). A Box () or
    MultiDiscrete () asks for arrays.
    """
    space = env.action_space

    def as_arrays(action: Any) -> Any:
        return map_space(lambda place, leaf: _as_sample(part_at(action, place), leaf), space)

    has_numbers = any(leaf.shape == () and not isinstance(leaf, spaces.Discrete) for _, leaf in leaves(space))
    return TransformAction(env, as_arrays, space) if has_numbers else env


def _as_sample(value: Any, space: spaces.Space[Any]) -> Any:
    """Return a value of a leaf of the action space in the type of its samples: a number, else an array."""
    return value if isinstance(space, spaces.Discrete) else np.asarray(value)


def shares(episodes: int, lanes: int) -> NDArray[np.int64]:
    """Return how many episodes each lane plays, int64 (lanes,): as even as can be, the first lanes one more.

    The share is fixed beforehand, since taking the first episodes that end, in whichever lane, favours short ones.
    """
    share, remainder = divmod(episodes, lanes)
    plays_one_more = np.arange(lanes) < remainder
    return share + plays_one_more


def _check_actions(env: VecEnv, step: int, actions: Any) -> None:
    """Raise a UsageError if an action breaks the rule of `rmt_rl.numbers`."""
    with _explained(env, step):
        check_all_values(actions, env.single_action_space, "actions", _FROM_POLICY)


def _check_observations(env: VecEnv, step: int, observations: Any) -> None:
    """Raise a UsageError if an observation breaks the rule of `rmt_rl.numbers`."""
    with _explained(env, step):
        check_all_values(observations, env.single_observation_space, "observations", _FROM_ENV)


def _check_rewards(env: VecEnv, step: int, rewards: NDArray[Any], counted: Bools) -> None:
    """Raise a UsageError if a reward that counts breaks the rule of `rmt_rl.numbers`."""
    of_episodes = np.where(counted, rewards, 0)
    with _explained(env, step):
        check_plain_numbers(of_episodes, "rewards", _FROM_ENV)


@contextmanager
def _explained(env: VecEnv, step: int) -> Iterator[None]:
    """Name the environment and the step in errors about numbers."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"env {_name(env)!r}, step {step} of a rollout: {error}") from None


def _name(env: VecEnv) -> str:
    """Return the id of the environments, or the name of their class."""
    vector = env.unwrapped
    one = vector.envs[0].unwrapped if isinstance(vector, SyncVectorEnv) else vector
    return type(one).__name__ if one.spec is None else one.spec.id


def has_masks(env: VecEnv) -> bool:
    """Return True if the environments, or what they wrap, have sb3-contrib's method `action_masks`."""
    vector = env.unwrapped
    if not isinstance(vector, SyncVectorEnv):
        return False
    try:
        return callable(vector.envs[0].get_wrapper_attr("action_masks"))
    except AttributeError:
        return False


def action_masks(env: VecEnv, infos: dict[str, Any], from_method: bool) -> Bools | None:
    """Return the masks (N, P) of the next actions, from `action_masks()` or from infos; None if there are none."""
    if from_method:
        vector = cast("SyncVectorEnv", env.unwrapped)
        return stacked_masks(vector.call("action_masks"))
    masks = infos.get(ACTION_MASK)
    if masks is None:
        return None
    flat: Bools = np.array(masks, np.bool_)
    is_given = infos[f"_{ACTION_MASK}"]
    flat[~is_given] = True
    return flat


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
        UsageError: `episodes` is less than 1, the environment's autoreset mode is another one, or an observation, a
            reward or an action breaks the rule of `rmt_rl.numbers`.
    """
    require_next_step(env)
    if episodes < 1:
        raise UsageError(f"episodes = {episodes}: at least 1 is needed")
    if is_privileged(policy):
        policy.attach(env)
    left = shares(episodes, env.num_envs)
    starts = np.ones(env.num_envs, bool)
    resets = np.zeros(env.num_envs, bool)
    from_method = has_masks(env)
    observations, infos = env.reset(seed=seed)
    _check_observations(env, 0, observations)
    state = None
    step = 0
    playing = left > 0
    while playing.any():
        masks = action_masks(env, infos, from_method)
        if masks is not None and takes_masks(policy):
            masks[resets] = True  # an ended episode may allow no action, and none is played
            actions, state = policy.predict(observations, state, starts, deterministic, masks)
        else:
            actions, state = policy.predict(observations, state, starts, deterministic)
        _check_actions(env, step, actions)
        actions = fit_actions(actions, env.single_action_space)
        played = map_leaves(np.copy, actions)  # an environment may change what it is given
        next_observations, rewards, terminations, truncations, infos = env.step(played)
        counted = playing & ~resets
        done = terminations | truncations
        ends = done & counted
        step += 1
        _check_observations(env, step, next_observations)
        _check_rewards(env, step, rewards, counted)
        yield Step(
            observations, actions, rewards, terminations, truncations, next_observations, starts, ends, counted, infos
        )
        # Where this step reset the lane, its action and reward were void and the next observation begins an episode.
        starts = resets
        resets = done
        observations = next_observations
        left -= ends
        playing = left > 0
