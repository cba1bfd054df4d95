"""The interfaces of an environment's file (`rmt_rl.envs.<name>`) and of a policy that acts in environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeGuard

from pydantic import AfterValidator, BaseModel, Field, create_model

from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.lives import LIFETIME, SINGLE
from rmt_rl.space_fit import difference

if TYPE_CHECKING:
    import gymnasium
    import numpy as np
    from gymnasium.vector import VectorEnv
    from numpy.typing import NDArray

Options: TypeAlias = Frozen | Mapping[str, object]
"""A task's options: its `Config`, or some of the fields by name; the others have their defaults."""


class Policy(Protocol):
    """Anything that acts, with the signature of Stable-Baselines3's `predict`.

    Shape suffix: N environments of a vector environment.
    """

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose an action in every environment.

        Args:
            observation: arrays (N, ...), or a dict or tuple of them.
            state: the state that the previous call returned; None in the first call.
            episode_start: bool (N,), True where the observation is the first of an episode.
            deterministic: take the most likely action instead of sampling.

        Returns:
            Actions (N, ...) and the state to give back with the next observation.
        """


class Privileged(Protocol):
    """A policy that looks into the simulators instead of at observations, as experts may."""

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Take hold of the environments to act in; called before they are reset."""


class Informed(Protocol):
    """A policy whose state depends on its own actions, so that it is informed when others are done in their place."""

    def replace_actions(self, state: Any, actions: Any, replaced: NDArray[np.bool_]) -> Any:
        """Return the state after other actions than the chosen ones.

        Args:
            state: the state that `predict` returned with the actions it chose.
            actions: arrays (N, ...) of the actions that are done, or a dict or tuple of them.
            replaced: bool (N,), True where another action than the chosen one is done.
        """


class Masked(Protocol):
    """A policy that chooses among the actions that an environment allows."""

    takes_masks: bool

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = True,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[Any, Any]:
        """Return the actions and the next state; `action_masks` (N, P) is True for each choice that is allowed."""


class Task(Protocol):
    """A module that defines a memory task, or a class used as a namespace (its functions static).

    The first line of its docstring is its summary: what it is, its horizon, and what must be remembered for how
    long. The info of the step that ends an episode holds `is_success` (see `rmt_rl.success`), unless returns are its
    measure.

    Further names are optional:
        EXTRA: a literal string, the extra of rmt-rl that installs what the module imports.
        BEFORE_PYTHON: a literal string such as `"3.13"`, the first Python for which the extra has no release.
        make_vec: `make_vec(num_envs, **options)` returns a natively vectorised `VectorEnv`, next-step autoreset.
        EPISODES: default number of episodes that the expert plays for a data set; 4,000 without it.
        LANES: most environments to open at once, if each takes much memory.
        LIFETIME: default number of episodes of a life, for tasks that are found out and then known; such a task's
            expert plays lives (see `rmt_rl.lives`). Without it the option `lifetime` is unset.
        HINDSIGHT_CLASSES, hindsight: `hindsight(trajectory)` returns for each step a class that the rest of the
            trajectory reveals, int64 (T,), -1 for none; an auxiliary loss trains agents to predict it, by default.
        decisive: `decisive(trajectory)` returns True for the steps whose action depends on what must be remembered,
            bool (T,).
        idle: `idle(trajectory)` returns True for the steps that show nothing to remember, bool (T,); memory ageing
            makes its fillers of them. Without it, all steps but an episode's first and last are idle.
    """

    @property
    def ID(self) -> str:
        """Gymnasium id, a literal string, e.g. `"rmt_rl/TMaze-v0"`."""

    @property
    def Config(self) -> type[Frozen]:
        """Frozen options, the keyword arguments of `make`; the defaults are the training task."""

    @property
    def make(self) -> Callable[..., gymnasium.Env[Any, Any]]:
        """Function that returns one environment; its keyword arguments are `Config`'s fields and `render_mode`."""

    @property
    def Expert(self) -> Callable[..., Policy]:
        """The policy that data are collected from: `Expert(config, seed=0)`; see `Privileged`."""


class HasSpaces(Protocol):
    """Anything with spaces: an environment, a data set, an agent's spec."""

    @property
    def observation_space(self) -> gymnasium.Space[Any]: ...

    @property
    def action_space(self) -> gymnasium.Space[Any]: ...


def is_privileged(policy: Policy) -> TypeGuard[Privileged]:
    """Return True if a policy has the method of `Privileged`, itself or through what it wraps."""
    return callable(getattr(policy, "attach", None))


def is_informed(policy: Policy) -> TypeGuard[Informed]:
    """Return True if a policy has the method of `Informed`."""
    return callable(getattr(policy, "replace_actions", None))


def takes_masks(policy: Policy) -> TypeGuard[Masked]:
    """Return True if a policy takes action masks."""
    return getattr(policy, "takes_masks", False) is True


def is_task(thing: object) -> bool:
    """Return True if an object has the attributes of a task."""
    has_id = isinstance(getattr(thing, "ID", None), str)
    config = getattr(thing, "Config", None)
    has_config = isinstance(config, type) and issubclass(config, BaseModel)
    return has_id and has_config and hasattr(thing, "make")


def config_class(task: Task) -> type[Frozen]:
    """Return the class of a task's options: its `Config`, and the option `lifetime` that every environment has.

    A `Config` with an option of this name is returned as it is: the environment does with it what it says.
    """
    return _with_lifetime(task.Config, getattr(task, "LIFETIME", None))


@cache  # one class, so that equal configs are equal
def _with_lifetime(config: type[Frozen], default: int | None) -> type[Frozen]:
    if LIFETIME in config.model_fields:
        return config
    single = None if default is None else SINGLE  # the files of a run keep no None, which would then be the default

    def kept(lifetime: int | None) -> int | None:
        return lifetime or single

    description = "episodes of the same task that make one life, played as one episode (0 or unset: single episodes)"
    annotation = Annotated[int | None, AfterValidator(kept)]
    field: Any = (annotation, Field(default, ge=0, description=description))
    return create_model(config.__name__, __base__=config, __doc__=config.__doc__, **{LIFETIME: field})


def task_config(task: Task, options: Options) -> Frozen:
    """Return options as the task's `config_class`; a config is returned as it is.

    Raises:
        UsageError: an option is unknown or its value is out of range.
    """
    return options if isinstance(options, Frozen) else validated(config_class(task), options)


class DividedOptions(NamedTuple):
    """Options of an environment.

    Attributes:
        arguments: the keyword arguments of the task's `make`.
        lifetime: the number of episodes of a life; None for single episodes.
    """

    arguments: dict[str, Any]
    lifetime: int | None

    def to_json(self) -> dict[str, Any]:
        """Return all options that are set, as JSON values; the lifetime is one of them only if there are lives."""
        return self.arguments if self.lifetime is None else {**self.arguments, LIFETIME: self.lifetime}


def divided(task: Task, config: Frozen, mode: Literal["python", "json"] = "python") -> DividedOptions:
    """Divide the options of an environment into those of one episode and the lifetime.

    Args:
        task: the task.
        config: all options.
        mode: `json` gives arguments of values that JSON can hold.
    """
    arguments = dict(config) if mode == "python" else config.model_dump(mode=mode)
    is_own = LIFETIME in task.Config.model_fields
    lifetime = None if is_own else arguments.pop(LIFETIME, None)
    return DividedOptions(arguments, lifetime or None)


def default_episodes(task: Task) -> int:
    """Return the number of episodes of a data set if the user gives none."""
    return getattr(task, "EPISODES", 4000)


def most_lanes(task: Task, wanted: int) -> int:
    """Return the number of environments to open at once: the wanted number, or fewer if the task limits it."""
    return min(wanted, getattr(task, "LANES", wanted))


def hindsight_classes(task: Task) -> int:
    """Return the number of hindsight classes that a task declares; 0 if it declares none."""
    classes: int = getattr(task, "HINDSIGHT_CLASSES", 0)
    return classes if hasattr(task, "hindsight") else 0


def check_same_spaces(name: str, one: HasSpaces, other_name: str, other: HasSpaces, remedy: str) -> None:
    """Raise a UsageError unless two things, such as an environment and an agent's spec, have spaces of the same values.

    Bounds, and the widths of floats and of integers, may differ.
    """
    for attribute in ("observation_space", "action_space"):
        differing = difference(getattr(one, attribute), getattr(other, attribute), attribute)
        if differing:
            raise UsageError(
                f"{name} has {differing.name} {differing.one}, but {other_name} has {differing.other}; {remedy}"
            )
