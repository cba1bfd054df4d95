"""Any environment that Gymnasium knows as a task, so that it trains and evaluates like those in `envs/`."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError

_WRAPPER = re.compile(r"(gymnasium|minigrid|rmt_rl)\.wrappers[.\w]*:(?!Record)\w+")
"""Wrappers that a spec may name, since to make them is to call what it names; none that writes files."""

_REGISTERING = ("ale_py", "gymnasium_robotics", "highway_env", "minigrid", "rmt_rl")
"""Packages that a spec may have imported, so that they register its environment."""


class GymnasiumConfig(Frozen):
    """How to make an environment that Gymnasium knows."""

    spec: str | None = Field(
        None, description="Gymnasium's EnvSpec as JSON, e.g. of a data set: arguments, wrappers, time limit"
    )


class GymnasiumTask:
    """An environment by its Gymnasium id, e.g. `Hopper-v5` or `ale_py:ALE/Breakout-v5`; it has no expert.

    Raises:
        UsageError: Gymnasium doesn't know the id.
    """

    Config = GymnasiumConfig

    def __init__(self, env_id: str) -> None:
        self.ID = env_id
        module, colon, name = env_id.rpartition(":")
        try:
            if colon:  # which registers it
                import_module(module)
            self.registered = gymnasium.spec(name)
        except (gymnasium.error.Error, ImportError) as error:
            raise UsageError(f"env {env_id!r} is not known to Gymnasium: {error}") from error

    def make(self, render_mode: str | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
        """One environment; `options` are the fields of `GymnasiumConfig`.

        Raises:
            UsageError: a package that it needs is missing, or the spec is none of this environment.
        """
        try:
            # Not every environment takes a render mode.
            drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
            return gymnasium.make(self.spec(**options), disable_env_checker=True, **drawn)
        except UsageError:
            raise
        except (gymnasium.error.Error, ImportError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"env {self.ID!r} can't be made ({error}); mend its spec, or install what it needs, e.g. "
                "rmt-rl[mujoco] or rmt-rl[atari]"
            ) from error

    def spec(self, **options: Any) -> EnvSpec:
        """Gymnasium's spec of what `make` makes with these options."""
        text = validated(self.Config, options).spec
        return self.registered if text is None else self._read(text)

    @property
    def package(self) -> str:
        """What it comes from, and the version."""
        name = str(self.registered.entry_point).partition(".")[0]
        try:
            return f"{name} {version(packages_distributions()[name][0])}"
        except (KeyError, PackageNotFoundError):  # it isn't installed as a package
            return name

    def _read(self, text: str) -> EnvSpec:
        """The spec that a text describes; of code it may only name what is registered, and known wrappers."""
        try:
            spec = EnvSpec.from_json(text)
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            raise UsageError(f"spec={text[:60]!r}... is no EnvSpec of Gymnasium: {error}") from None
        if spec.id != self.registered.id or spec.entry_point != self.registered.entry_point:
            raise UsageError(
                f"spec names {spec.id} by {spec.entry_point}, but {self.registered.id} is registered by "
                f"{self.registered.entry_point}; install the package that registers it as the spec says"
            )
        foreign = [each.entry_point for each in spec.additional_wrappers if not _WRAPPER.fullmatch(each.entry_point)]
        if foreign:
            raise UsageError(f"spec names the wrappers {foreign}; only Gymnasium's, MiniGrid's and ours are made")
        return spec


def task_of(spec: EnvSpec) -> tuple[str, dict[str, Any]]:
    """The id and the options of the `GymnasiumTask` that makes what a spec, e.g. of a data set, describes.

    Raises:
        UsageError: its environment isn't registered, and not by a package that is known to do so.
    """
    options = {"spec": spec.to_json()}
    if spec.id in gymnasium.registry:
        return spec.id, options
    package = str(spec.entry_point).partition(".")[0]
    if package not in _REGISTERING:
        raise UsageError(
            f"env {spec.id!r} isn't registered with Gymnasium; name it with the package that registers it: "
            f"rmt-rl train {package}:{spec.id} AGENT --dataset ID"
        )
    return f"{package}:{spec.id}", options
