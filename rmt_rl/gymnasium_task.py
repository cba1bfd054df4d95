"""Environments of Gymnasium as tasks: an id that it knows, or a class of environments.

They train and evaluate like those in `envs/`.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Self, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec
from pydantic import Field, PydanticSchemaGenerationError, TypeAdapter, create_model, model_validator
from pydantic_core import PydanticSerializationError

from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.foreign_specs import check_class_options, checked_spec
from rmt_rl.named_tasks import entry_point, env_id, object_name
from rmt_rl.plugins import ensure_imported, is_named, trusted
from rmt_rl.spec_repairs import completed, read_spec, with_wrapper_defaults
from rmt_rl.task import is_task

if TYPE_CHECKING:
    from rmt_rl.task import Task

AnyEnv = gymnasium.Env[Any, Any]
EnvClass = type[AnyEnv]
_GROUP = "rmt_rl.envs"

_WRAPPER = re.compile(r"(gymnasium|minigrid|rmt_rl)\.wrappers[.\w]*:(?!Record)\w+")
"""Wrappers that a spec may name, since to make them is to call what it names; none that writes files."""

_REGISTERING = {"ale_py", "gymnasium_robotics", "highway_env", "minigrid", "rmt_rl"}
"""Packages that a spec or id from a file may have imported, so that they register their environments."""


class GymnasiumConfig(Frozen):
    """Options of an environment that Gymnasium knows."""

    spec: str | None = Field(
        None, description="Gymnasium's EnvSpec as JSON, e.g. of a data set: arguments, wrappers, time limit"
    )


class GymnasiumTask:
    """An environment by its Gymnasium id, e.g. `Hopper-v5` or `ale_py:ALE/Breakout-v5`; it has no expert.

    The module of an id like the second one is imported only if files may name the module (see `rmt_rl.plugins`).

    Raises:
        UsageError: Gymnasium doesn't know the id, or its module isn't imported.
    """

    Config: type[Frozen] = GymnasiumConfig

    def __init__(self, env_id: str) -> None:
        self.ID = env_id
        module, colon, name = env_id.rpartition(":")
        try:
            if colon:  # the module registers the id
                ensure_imported(module, _REGISTERING | trusted(_GROUP))
            self.registered = gymnasium.spec(name)
        except (gymnasium.error.Error, ImportError) as error:
            package = module.replace("_", "-")
            remedy = f"; pip install {package}" if isinstance(error, ImportError) and module in _REGISTERING else ""
            if not colon:
                remedy = "; if a module that is installed registers it, name the module behind --import"
            raise UsageError(f"env {env_id!r} is not known to Gymnasium: {error}{remedy}") from error

    def make(self, render_mode: str | None = None, **options: Any) -> AnyEnv:
        """Make one environment; `options` are the fields of `Config`.

        Raises:
            UsageError: a package that it needs is missing, or the spec is of another environment.
        """
        drawn: dict[str, Any] = {}
        if render_mode is not None:  # not every environment takes one
            drawn["render_mode"] = render_mode
        try:
            spec = self.spec(**options)
            return gymnasium.make(spec, disable_env_checker=True, **drawn)
        except UsageError:
            raise
        except (gymnasium.error.Error, ImportError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"env {self.ID!r} can't be made ({error}); mend its spec, or install what it needs, e.g. "
                "rmt-rl[mujoco] or rmt-rl[atari]"
            ) from error

    def spec(self, **options: Any) -> EnvSpec:
        """Return Gymnasium's spec of what `make` makes with these options."""
        config = cast("GymnasiumConfig", validated(self.Config, options))
        text = config.spec
        return self.registered if text is None else self._read(text)

    def _read(self, text: str) -> EnvSpec:
        """The spec that a text describes; of code it may only name what is registered, and known wrappers.

        Its arguments are checked by `rmt_rl.foreign_specs`.
        """
        try:
            spec = read_spec(text)
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            raise UsageError(f"spec={text[:60]!r}... is no EnvSpec of Gymnasium: {error}") from None
        known = self.registered
        if spec.id != known.id or spec.entry_point != known.entry_point:
            raise UsageError(
                f"spec names {spec.id} by {spec.entry_point}, but {known.id} is registered by "
                f"{known.entry_point}; install the package that registers it as the spec says"
            )
        wrappers = [str(each.entry_point) for each in spec.additional_wrappers]
        foreign = [wrapper for wrapper in wrappers if not _is_made(wrapper)]
        if foreign:
            raise UsageError(
                f"spec names the wrappers {foreign}; only Gymnasium's, MiniGrid's and ours are made, as files may come "
                "from anyone. If you trust their code, name its module behind --import; or make the wrapped "
                "environment in a class of your own, and give its name, module:Class, in place of ENV"
            )
        return completed(checked_spec(with_wrapper_defaults(spec), known), known)


def _is_made(wrapper: str) -> bool:
    """Return True for the entry point of a wrapper of a known package, or of a module that the user named."""
    module, _, _ = wrapper.partition(":")
    return _WRAPPER.fullmatch(wrapper) is not None or is_named(module, _GROUP)


class ClassTask(GymnasiumTask):
    """A class of environments as a task: the keyword parameters of its constructor are the options; it has no expert.

    Raises:
        UsageError: the constructor has parameters without defaults.
    """

    def __init__(self, cls: EnvClass, module: str, name: str) -> None:
        self.ID = env_id(module, name)
        object_path = f"{module}:{name}"
        self._is_named = is_named(module, _GROUP)
        self._cls = cls
        self.Config = _options(cls, object_path)
        if self.ID not in gymnasium.registry:
            gymnasium.register(self.ID, entry_point=object_path)
        self.registered = gymnasium.spec(self.ID)

    def spec(self, **options: Any) -> EnvSpec:
        config = validated(self.Config, options)
        if not self._is_named:  # but imported for some other reason, so its options were perhaps never meant for files
            check_class_options(self._cls, config.model_dump(), self.ID)
        spec = copy.deepcopy(self.registered)
        spec.kwargs = config.model_dump()
        return spec


def as_task(thing: Any, module: str, name: str) -> Task:
    """Return what an environment's name stands for as a task, known to Gymnasium under its id.

    Args:
        thing: a task, or a class of environments.
        module: the module that holds it.
        name: its name in the module; `""` if it is the module.
    """
    if not is_task(thing):
        made = ClassTask(thing, module, name)
        return cast("Task", made)
    task = cast("Task", thing)
    make = entry_point(module, name, "make")
    registered = gymnasium.registry.get(task.ID)
    if name and registered is not None and registered.entry_point != make:
        raise UsageError(
            f"env {module}:{name} has the ID {task.ID!r}, which belongs to {registered.entry_point}; choose another ID"
        )
    if name and registered is None:
        make_vec = entry_point(module, name, "make_vec")
        vector = make_vec if hasattr(task, "make_vec") else None
        gymnasium.register(task.ID, entry_point=make, vector_entry_point=vector)
    return task


def gymnasium_task_of(spec: EnvSpec) -> tuple[str, dict[str, Any]]:
    """Return the id and the options of the `GymnasiumTask` that makes what a spec, e.g. of a data set, describes.

    Raises:
        UsageError: its environment isn't registered, and not by a package that is known to do so.
    """
    options = {"spec": spec.to_json()}
    if spec.id in gymnasium.registry:
        return spec.id, options
    entry = str(spec.entry_point)
    package, _, _ = entry.partition(".")
    registering = _REGISTERING | trusted(_GROUP)
    if package not in registering:
        name = object_name(spec) or f"{package}:{spec.id}"
        raise UsageError(
            f"env {spec.id!r} isn't registered with Gymnasium. The data set says that {name!r} makes it. A name in a "
            "file imports nothing: if you know and trust this package, give its name yourself in place of ENV: "
            "rmt-rl train ENV AGENT --dataset ID"
        )
    return f"{package}:{spec.id}", options


class _ClassOptions(Frozen):
    """Base of the options of a class of environments, whose parameters may be of any type."""

    @model_validator(mode="after")
    def _fits_files(self) -> Self:
        for name, value in self:
            try:
                TypeAdapter(Any).dump_json(value)
            except PydanticSerializationError:
                raise ValueError(
                    f"{name}={value!r} is of type {type(value).__name__}, which no file can hold; give numbers, texts "
                    "or lists"
                ) from None
        return self


def _options(cls: EnvClass, name: str) -> type[Frozen]:
    """Return a config of the parameters of a class's constructor, except those that no file can hold."""
    parameters = [each for each in _parameters(cls) if _is_option(each.name)]
    missing = [each.name for each in parameters if each.default is each.empty]
    if missing:
        listed = ", ".join(missing)
        raise UsageError(f"env {name!r} can't be made without {listed}; give these parameters defaults")
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if _storable(parameter):
            fields[parameter.name] = (_hint(parameter), parameter.default)
    return create_model(
        f"{cls.__name__}Config",
        __base__=_ClassOptions,
        __doc__=f"Options of {name}.",
        **fields,
    )


def _is_option(parameter: str) -> bool:
    """Return False for the render mode, which is given apart, and for names with a leading underscore."""
    return parameter != "render_mode" and not parameter.startswith("_")


def _parameters(cls: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a constructor that can be given by keyword."""
    try:
        signature = inspect.signature(cls, eval_str=True)
    except (NameError, AttributeError, TypeError, SyntaxError):  # an annotation names what only a type checker imports
        signature = inspect.signature(cls)
    parameters = signature.parameters.values()
    by_keyword = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return [each for each in parameters if each.kind in by_keyword]


def _hint(parameter: Parameter) -> Any:
    """Return the type of a parameter; Any if it has no annotation or one that can't be checked."""
    hint = parameter.annotation
    if hint is parameter.empty or isinstance(hint, str):
        return Any
    try:
        TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return Any
    return hint if parameter.default is not None else hint | None


def _storable(parameter: Parameter) -> bool:
    """Return whether JSON can hold the default."""
    try:
        TypeAdapter(Any).dump_json(parameter.default)
    except PydanticSerializationError:
        return False
    return True
