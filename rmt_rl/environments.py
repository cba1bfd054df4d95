"""Environments as this library plays them: without texts, their interface checked.

Environments of others may leave the interface of Gymnasium: old ones return four values of a step, vector code leaves
rewards of shape (1,), observations don't fit their space. `make_env` returns environments that keep to the interface,
or that say in one line in which way they don't.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from rmt_rl.errors import UsageError
from rmt_rl.learnable import LeafSpace, WithoutText, check_actions, is_text, learnable_space, texts_of, warn_of_text
from rmt_rl.success import SUCCESS, as_success
from rmt_rl.task import Options, Task, divided, task_config
from rmt_rl.trees import nodes, part_at, place_name
from rmt_rl.wrappers import ACTION_MASK as ACTION_MASK
from rmt_rl.wrappers import Lifetime

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]
Begun: TypeAlias = tuple[Any, dict[str, Any]]
Step: TypeAlias = tuple[Any, float, bool, bool, dict[str, Any]]
_OLD = "environments of OpenAI's Gym can be wrapped by shimmy.GymV21CompatibilityV0 (pip install 'shimmy[gym-v21]')"


def stacked_masks(masks: Sequence[Any]) -> NDArray[np.bool_] | None:
    """Return action masks as one array, bool (N, P); None if there are none.

    Args:
        masks: of N environments, P flags each; None allows every action.

    Raises:
        UsageError: the masks differ in size.
    """
    flat = [None if mask is None else np.array(mask, bool).ravel() for mask in masks]
    sizes = sorted({len(mask) for mask in flat if mask is not None})
    if not sizes:
        return None
    if len(sizes) > 1:
        listed = ", ".join(map(str, sizes))
        raise UsageError(f"action masks have {listed} flags; give one for each choice, in each environment and step")
    every = np.ones(sizes[0], bool)
    return np.stack([every if mask is None else mask for mask in flat])


def make_env(task: Task, options: Options, render_mode: str | None = None) -> AnyEnv:
    """Return one environment of a task, without the texts of its observations and with its interface checked.

    With the option `lifetime` its episodes are lives.

    Args:
        task: the task.
        options: options of the environment; its defaults for the rest.
        render_mode: passed to the environment; None passes nothing.

    Raises:
        UsageError: an option is unknown or its value is out of range, or the environment has spaces that agents can't
            be made for.
    """
    drawn = {} if render_mode is None else {"render_mode": render_mode}
    arguments, lifetime = divided(task, task_config(task, options))
    env = task.make(**arguments, **drawn)
    try:
        checked = _checked(env, task.ID)
    except UsageError:
        env.close()
        raise
    return checked if lifetime is None else Lifetime(checked, lifetime)


def _checked(env: AnyEnv, name: str) -> AnyEnv:
    space = env.observation_space
    try:
        learnable_space(space)
        check_actions(env.action_space)
    except UsageError as error:
        raise UsageError(f"env {name!r}: {error}") from None
    _check_innermost(env, name)
    checked = CheckedEnv(env, name, keeps_infos=False)
    if not texts_of(space):
        return checked
    warn_of_text(space)
    return WithoutText(checked)


def _check_innermost(env: AnyEnv, name: str) -> None:
    """Check what Gymnasium's own wrappers get, such as `TimeLimit`, which can't do with old environments either."""
    if not isinstance(env, gymnasium.Wrapper):
        return
    while isinstance(env.env, gymnasium.Wrapper):
        env = env.env
    env.env = CheckedEnv(env.env, name)


class CheckedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose `reset` and `step` return what Gymnasium's interface promises.

    Rewards and flags of one number in an array become this number.

    Args:
        env: the environment.
        name: its name in error messages.
        keeps_infos: pass on all infos; otherwise only `action_mask`, and `is_success` at an episode's end, since a
            vector environment can't join infos whose types differ between environments, such as None and True.

    Raises:
        UsageError: `reset` can't be given a seed; in `reset` and `step`, the environment returns anything else.
    """

    def __init__(self, env: AnyEnv, name: str, keeps_infos: bool = True) -> None:
        super().__init__(env)
        self._name = name
        self._keeps_infos = keeps_infos
        self._check_observation = _observation_check(env.observation_space)
        parameters = inspect.signature(env.reset).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        if not takes_any and not {"seed", "options"} <= parameters.keys():
            raise self._error(f"reset takes ({', '.join(parameters)}), not seed and options; {_OLD}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Begun:
        begun = self.env.reset(seed=seed, options=options)
        if not (isinstance(begun, tuple) and len(begun) == 2 and isinstance(begun[1], dict)):
            raise self._error(f"reset returns {_kind(begun)}, not an observation and a dict of infos; {_OLD}")
        observation, info = begun
        self._check(observation, "reset")
        return observation, self._info(info, ended=False)

    def step(self, action: Any) -> Step:
        made = self.env.step(action)
        if not (isinstance(made, tuple) and len(made) == 5):
            raise self._error(
                f"step returns {_kind(made)}, not observation, reward, terminated, truncated and infos; {_OLD}"
            )
        observation, reward, terminated, truncated, info = made
        if not isinstance(info, dict):
            raise self._error(f"step returns the infos {info!r}; return a dict")
        self._check(observation, "step")
        terminated = terminated if isinstance(terminated, bool) else self._flag(terminated, "terminated")
        truncated = truncated if isinstance(truncated, bool) else self._flag(truncated, "truncated")
        return (
            observation,
            reward if isinstance(reward, float | int) else self._number(reward),
            terminated,
            truncated,
            self._info(info, terminated or truncated),
        )

    def _check(self, observation: Any, method: str) -> None:
        fault = self._check_observation(observation)
        if fault:
            raise self._error(f"{method} returns an observation that isn't in the space: {fault}")

    def _number(self, reward: Any) -> Any:
        """Return a reward that is no Python number as it is if it is a NumPy number, else the one number in it."""
        if isinstance(reward, np.floating | np.integer):
            return reward
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "fiub":
            raise self._error(f"step returns the reward {_shown(reward)}; return one number")
        return array.item()

    def _flag(self, value: Any, name: str) -> bool:
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "iub":
            raise self._error(f"step returns {name} = {_shown(value)}; return True or False")
        return bool(array.item())

    def _info(self, info: dict[str, Any], ended: bool) -> dict[str, Any]:
        """Return the infos to pass on."""
        if self._keeps_infos:
            return info
        kept: dict[str, Any] = {}
        if info.get(ACTION_MASK) is not None:
            kept[ACTION_MASK] = np.asarray(info[ACTION_MASK], bool).ravel()
        if not ended:
            return kept
        try:
            success = as_success(info.get(SUCCESS))
        except UsageError as error:
            raise self._error(str(error)) from None
        return kept if success is None else kept | {SUCCESS: success}

    def _error(self, fault: str) -> UsageError:
        return UsageError(f"env {self._name!r}: {fault}")


def _observation_check(space: Space[Any]) -> Callable[[Any], str | None]:
    """Return a function that says in which part an observation isn't in a space; it returns None for those in it."""
    checks = []
    for place, part in nodes(space):
        name = place_name("observation", place)
        if isinstance(part, spaces.Dict | spaces.Tuple):
            checks.append((place, _branch_check(part, name)))
        elif isinstance(part, LeafSpace) and not is_text(part):
            checks.append((place, _leaf_check(part, name)))

    def check(observation: Any) -> str | None:
        for place, check_part in checks:
            fault = check_part(part_at(observation, place))
            if fault:
                return fault
        return None

    return check


def _branch_check(space: Any, name: str) -> Callable[[Any], str | None]:
    if isinstance(space, spaces.Tuple):

        def check_tuple(value: Any) -> str | None:
            fits = isinstance(value, tuple | list) and len(value) == len(space)
            return None if fits else f"{name} is {_kind(value)}, the space asks for a tuple of {len(space)}"

        return check_tuple

    keys = space.spaces.keys()

    def check_dict(value: Any) -> str | None:
        if isinstance(value, dict) and value.keys() == keys:
            return None
        found = f"has the keys {sorted(value)}" if isinstance(value, dict) else f"is {_kind(value)}"
        return f"{name} {found}, the space asks for {sorted(keys)}"

    return check_dict


def _leaf_check(space: Space[Any], name: str) -> Callable[[Any], str | None]:
    shape, dtype = space.shape, np.dtype(space.dtype)

    def check(value: Any) -> str | None:
        array = value if isinstance(value, np.ndarray) else _as_array(value)
        if array is None or array.shape != shape:
            return f"{name} is {_kind(value)}, the space asks for shape {shape}"
        if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
            return f"{name} has dtype {array.dtype}, the space asks for {dtype}"
        return None

    return check


def _as_array(value: Any) -> Any:
    """Return a value as an array; None if its parts have different lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        return None


def _kind(value: Any) -> str:
    """Return words for a value of another kind than expected."""
    if isinstance(value, tuple):
        return f"{len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape}"
    return _shown(value)


def _shown(value: Any) -> str:
    """Return a value as error messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
