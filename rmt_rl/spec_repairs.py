"""Gymnasium's specs in files: arguments that JSON can't hold, wrappers that change nothing, numbers of old versions.

A spec of an environment is written into a data set's metadata and into a run's config.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from dataclasses import replace
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec, load_env_creator

from rmt_rl.errors import UsageError

_UNSEEN = re.compile(
    r"(?:gymnasium|minari|stable_baselines3)\.[\w.]+:"
    r"(?:Record\w+|RenderCollection|HumanRendering|OrderEnforcing|PassiveEnvChecker|Autoreset|Monitor|DataCollector\w*)"
)
"""Wrappers that change nothing of what an agent sees or does: they record, draw or check."""

_DROPPED = ("order_enforce", "apply_api_compatibility", "autoreset")
"""Fields of older versions of Gymnasium."""


def storable_spec(spec: EnvSpec) -> EnvSpec:
    """Return a spec without the registered arguments that JSON can't hold, such as arrays; `completed` adds them again.

    Raises:
        UsageError: JSON can't hold another part of the spec.
    """
    registered = _registered_arguments(spec)
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in registered or fits_json(value)}
    stored = copy.copy(spec)
    stored.kwargs = kwargs
    try:
        stored.to_json()
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"env_spec can't be stored as JSON ({error}); register the environment with an entry_point like "
            "'module:Class', and with arguments of numbers, texts and lists"
        ) from None
    return stored


def completed(spec: EnvSpec, registered: EnvSpec) -> EnvSpec:
    """Return a spec with the registered arguments that JSON can't hold."""
    missing = {name: value for name, value in registered.kwargs.items() if not fits_json(value)}
    full = copy.copy(spec)
    full.kwargs = missing | spec.kwargs
    return full


def _registered_arguments(spec: EnvSpec) -> set[str]:
    """Return the names of the arguments that a spec has from its registration."""
    registered = gymnasium.registry.get(spec.id)
    kwargs: dict[str, Any] = registered.kwargs if registered else {}
    return {name for name, value in kwargs.items() if name in spec.kwargs and spec.kwargs[name] is value}


def fits_json(value: object) -> bool:
    """Return True if JSON can hold a value."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def read_spec(text: str) -> EnvSpec:
    """Return the spec in a JSON text, of older versions of Gymnasium too.

    A time limit of 1e6 becomes 1,000,000. Wrappers that change nothing of what an agent sees are left out.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, AssertionError: it is none.
    """
    values = {name: value for name, value in json.loads(text).items() if name not in _DROPPED}
    spec = EnvSpec.from_json(json.dumps(values))
    limit = spec.max_episode_steps
    if isinstance(limit, float) and limit.is_integer():
        spec.max_episode_steps = int(limit)
    spec.additional_wrappers = tuple(
        wrapper for wrapper in spec.additional_wrappers if not _UNSEEN.fullmatch(str(wrapper.entry_point))
    )
    return spec


def with_wrapper_defaults(spec: EnvSpec) -> EnvSpec:
    """Return a spec in which wrappers that didn't record their arguments have their defaults.

    MiniGrid's wrappers record none. Other arguments show in the observation space, which is compared with the data's.

    Args:
        spec: its wrappers may be imported.

    Raises:
        UsageError: a wrapper has arguments without defaults.
    """
    whole = copy.copy(spec)
    whole.additional_wrappers = tuple(map(_with_defaults, spec.additional_wrappers))
    return whole


def _with_defaults(wrapper: WrapperSpec) -> WrapperSpec:
    if wrapper.kwargs is not None:
        return wrapper
    _, *parameters = inspect.signature(load_env_creator(str(wrapper.entry_point))).parameters.values()
    required = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if required:
        raise UsageError(
            f"spec names the wrapper {wrapper.entry_point} without its {', '.join(required)}; make the wrapped "
            "environment in a class or function of yours and give its name in place of ENV"
        )
    return replace(wrapper, kwargs={})
