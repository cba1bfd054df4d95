"""Check the arguments of environments that a file gives: they may be values, but name no program, module or place.

Files come from anyone: a data set's spec, a run's config. A registered environment does with its arguments what it
likes. ViZDoom runs the program at `vizdoom_path`, highway-env imports the class that `other_vehicles_type` names, and
MuJoCo reads `xml_file`. So an argument is accepted if one of these holds:

- it is the registered value, or the default of the environment's class;
- it holds numbers, truth values and None only;
- its texts are plain words, or names in the environment's own package; its name is a parameter of the environment's
  class whose default is a text, a list or None; and its name doesn't speak of paths, programs, modules or functions.

Environments with a `Config` check their arguments themselves. `trust_specs` lifts the rule.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec, load_env_creator

from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.named_tasks import object_name
from rmt_rl.plugins import find_object
from rmt_rl.task import is_task

Maker = Callable[..., object]
Arguments = Mapping[str, Any]

_WORDS = re.compile(r"(?!-)(?:[\w-]|(?<=\d)\.(?=\d))*(?: (?:[\w-]|(?<=\d)\.(?=\d))+)*")
_DOTTED = re.compile(r"\w+(?:\.\w+)+")
_SPEAKING = re.compile(  # of paths, programs, modules and functions
    r"path|file|folder|director|program|execut|command|module|import|callback|script|url|plugin|librar"
    r"|(?<![a-z])(?:dirs?|cmd|exec?|cls|class|args|argv|func|function|fn|hook|code|lib|bin|uri|host|xp)(?![a-z])",
    re.IGNORECASE,
)
_CODE = re.compile(r"Callable|Module|type\[|Type\[|Path|Space\b")  # annotations of parameters that no JSON value fits
_TEXTUAL = (str, list, tuple, dict, type(None))
_SHOWN_ON_A_SCREEN = "human"  # a render mode that opens a window


class _Parameter(NamedTuple):
    """A parameter of a constructor or function: its default (`inspect.Parameter.empty` without one), its annotation."""

    default: object
    annotation: str


class _Trust:
    """The user's word on specs, one for the process."""

    specs = False


def trust_specs(trusted: bool = True) -> None:
    """Accept all arguments of registered environments from now on, since the user trusts the makers of files."""
    _Trust.specs = trusted


def checked_spec(spec: EnvSpec, registered: EnvSpec) -> EnvSpec:
    """Return a spec from a file as the spec to make: of what is registered, with its own arguments, limit and wrappers.

    Args:
        spec: the file's; its id, entry point and wrappers' entry points have been checked.
        registered: the spec that Gymnasium knows by the same id.

    Raises:
        UsageError: a field is of the wrong type, or an argument isn't accepted.
        ImportError: the environment isn't installed; so does `gymnasium.error.Error`.
    """
    _check_fields(spec)
    kwargs = dict(spec.kwargs)
    if kwargs.get("render_mode") == _SHOWN_ON_A_SCREEN:
        kwargs["render_mode"] = None
    if not _Trust.specs:
        _check_environment(kwargs, registered)
        for wrapper in spec.additional_wrappers:
            _check_wrapper(wrapper, registered.id)
    safe = replace(spec, kwargs=kwargs, vector_entry_point=registered.vector_entry_point)
    safe.additional_wrappers = spec.additional_wrappers
    return safe


def check_class_options(cls: Maker, options: Arguments, name: str) -> None:
    """Check the options from a file for a class of environments that the user hasn't named.

    Raises:
        UsageError: an option isn't accepted.
    """
    if not _Trust.specs:
        _check_arguments(cls, options, {}, name)


def _check_fields(spec: EnvSpec) -> None:
    """Raise a UsageError if a field that code of Gymnasium or of this package uses has the wrong type."""
    limit = spec.max_episode_steps
    is_limit = limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit > 0)
    if not is_limit:
        raise UsageError(f"spec of {spec.id}: max_episode_steps={limit!r}; it must be a whole number above 0, or null")
    if not isinstance(spec.kwargs, dict):
        raise UsageError(f"spec of {spec.id}: kwargs={spec.kwargs!r}; it must be an object of arguments by name")


def _check_environment(kwargs: dict[str, Any], registered: EnvSpec) -> None:
    maker = _maker(registered.entry_point)
    task: Any = _task_of(registered, maker)
    if task is None:
        _check_arguments(maker, kwargs, registered.kwargs, registered.id)
        return
    own = {name: value for name, value in kwargs.items() if name != "render_mode"}
    validated(task.Config, own)


def _task_of(registered: EnvSpec, maker: Maker) -> object:
    """Return the task, a module or a class, that makes an environment; None if it isn't made by a task."""
    module = sys.modules.get(getattr(maker, "__module__", ""))
    name = object_name(registered)
    thing = module if name is None else find_object(name, "rmt_rl.envs")
    return thing if is_task(thing) else None


def _check_wrapper(wrapper: WrapperSpec, owner: str) -> None:
    """Raise a UsageError if a wrapper is none, or if its arguments name what no file may."""
    maker = _maker(wrapper.entry_point)
    if not (isinstance(maker, type) and issubclass(maker, gymnasium.Wrapper)):
        raise UsageError(f"spec of {owner} names {wrapper.entry_point} as a wrapper, which is none")
    if not isinstance(wrapper.kwargs, dict | None):
        raise UsageError(f"spec of {owner}: wrapper {maker.__name__} has kwargs={wrapper.kwargs!r}; give an object")
    known = _parameters(maker)
    for name, value in (wrapper.kwargs or {}).items():
        parameter = known.get(name)
        is_accepted = parameter is not None and _is_given_by(parameter, value)
        if not is_accepted and (parameter is None or _is_for_code(parameter) or _names_a_place(name, value)):
            raise _refused(f"wrapper {maker.__name__} of {owner}", name, value)


def _maker(entry_point: object) -> Maker:
    """Return what an entry point stands for, which imports its module."""
    if callable(entry_point):
        return entry_point
    maker: Maker = load_env_creator(str(entry_point))
    return maker


def _check_arguments(maker: Maker, kwargs: Arguments, registered: Arguments, owner: str) -> None:
    known = _parameters(maker)
    package, _, _ = str(getattr(maker, "__module__", "")).partition(".")
    for name, value in kwargs.items():
        is_registered = name in registered and _same(value, registered[name])
        if not is_registered and not _is_accepted(name, value, known.get(name), package):
            raise _refused(owner, name, value)


def _is_accepted(name: str, value: object, parameter: _Parameter | None, package: str) -> bool:
    if parameter is not None and _is_given_by(parameter, value):
        return True
    if parameter is not None and _is_for_code(parameter):
        return False
    texts = [text for _, text in _texts(name, value)]
    if not texts:
        return True
    if parameter is None or not _takes_texts(parameter) or _names_a_place(name, value):
        return False
    return all(_is_harmless(text, package) for text in texts)


def _is_given_by(parameter: _Parameter, value: object) -> bool:
    """Return True if a value is the parameter's default, or None where there is no other default."""
    if parameter.default is inspect.Parameter.empty:
        return value is None
    return _same(value, parameter.default)


def _is_for_code(parameter: _Parameter) -> bool:
    """Return True if a parameter is for a class, a function or the like, by its default or its annotation."""
    has_default = parameter.default is not inspect.Parameter.empty
    is_code = has_default and callable(parameter.default)
    return is_code or _CODE.search(parameter.annotation) is not None


def _takes_texts(parameter: _Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty or isinstance(parameter.default, _TEXTUAL)


def _names_a_place(name: str, value: object) -> bool:
    """Return True if a text stands under a name that speaks of paths, programs, modules or functions."""
    return any(_SPEAKING.search(each) for each, _ in _texts(name, value))


def _is_harmless(text: str, package: str) -> bool:
    """Return True for words, and for dotted names of a package."""
    if _WORDS.fullmatch(text):
        return True
    return _DOTTED.fullmatch(text) is not None and text.partition(".")[0] == package


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield each text in a value as JSON has it, with the name under which the text stands."""
    match value:
        case str():
            yield name, value
        case dict():
            for key, part in value.items():
                yield from _texts(str(key), part)
        case list() | tuple():
            for part in value:
                yield from _texts(name, part)


def _same(value: object, other: object) -> bool:
    """Return True if two values are the same in JSON, where tuples are lists."""
    try:
        return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)
    except (TypeError, ValueError):
        return False


def _parameters(maker: Maker) -> dict[str, _Parameter]:
    """Return the named parameters of a function, or of the constructors of a class and its bases."""
    if not isinstance(maker, type):
        return _named(maker)
    known: dict[str, _Parameter] = {}
    for cls in reversed(maker.__mro__):
        if "__init__" in vars(cls):
            known |= _named(vars(cls)["__init__"])
    return known


def _named(function: Maker) -> dict[str, _Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled, without a signature
        return {}
    of_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name: _Parameter(each.default, str(each.annotation)) for each in parameters if each.kind in of_name}


def _refused(owner: str, name: str, value: object) -> UsageError:
    return UsageError(
        f"{owner} gets {name}={value!r} from a file. A file may give numbers and plain words, but name no program, "
        "module or path, as environments run or read these. If you trust the maker of the file, add --trust-spec (in "
        "Python, call rmt_rl.registry.trust_specs() before)"
    )
