"""Configs as command-line flags: tyro reads the values, the configs check them.

A wrong value thus gives the same error message from a flag, from a file and from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from threading import Lock
from types import GenericAlias, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import tyro
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from rmt_rl.config import validated

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], arguments: Sequence[str], prog: str, description: str, default: Any = None) -> Model:
    """Read a config from command-line arguments. Options without a flag keep the value of `default`, if given.

    Raises:
        UsageError: a value is out of range, or values don't fit together.
        SystemExit: an argument is unknown or can't be read, and tyro has printed why (2); or help was printed (0).
    """
    overridden = {} if default is None else {"default": default}
    with _one_at_a_time:
        values: Any = tyro.cli(
            model,
            args=arguments,
            prog=prog,
            description=description,
            registry=_PLAIN_VALUES,
            **overridden,
        )
    return validated(model, values)


def with_options(base: type[Model], **classes: type[BaseModel]) -> type[Model]:
    """Return the config `base` with a section `NAME_options` for each class; its flags begin with `--NAME.`."""
    fields: dict[str, Any] = {}
    for name, section in classes.items():
        hint = Annotated[section, tyro.conf.arg(name=name)]  # type: ignore[valid-type]
        fields[f"{name}_options"] = (hint, section())
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)


_PLAIN_VALUES = ConstructorRegistry()
_one_at_a_time = Lock()  # tyro's caches aren't made for several threads


@_PLAIN_VALUES.struct_rule
def _as_values(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Let tyro build a dictionary of the values instead of a config."""
    if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)):
        return None

    def values(**given: Any) -> dict[str, Any]:
        return given

    values.__doc__ = info.type.__doc__  # tyro shows it as the section's description
    fields = [_flag(name, field, info.default) for name, field in info.type.model_fields.items()]
    return StructConstructorSpec(values, tuple(fields))


def _flag(name: str, field: FieldInfo, defaults: Any) -> StructFieldSpec:
    """Return the flag of a config's field; its default is that of the config `defaults`, if there is such a config."""
    if isinstance(defaults, BaseModel):
        default = getattr(defaults, name)
    elif field.is_required():
        default = tyro.MISSING_NONPROP
    else:
        default = field.get_default(call_default_factory=True)
    hint: Any = _without_constraints(field.annotation)
    for marker in field.metadata:
        hint = Annotated[hint, marker]
    return StructFieldSpec(name, hint, default, field.description)


def _without_constraints(hint: Any) -> Any:
    """Return the type without pydantic's constraints inside, which would clutter tyro's messages."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _without_constraints(get_args(hint)[0])
    parts = tuple(_without_constraints(part) for part in get_args(hint))
    if origin in (Union, UnionType):
        return reduce(or_, parts)
    if origin is tuple:
        return GenericAlias(tuple, parts)
    return hint
