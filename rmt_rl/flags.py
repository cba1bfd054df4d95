"""Configs as command-line flags: tyro reads them, and the configs themselves check what was read.

So a wrong value is told in the same words whether it came by a flag, from a file or from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from types import GenericAlias, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import tyro
from pydantic import BaseModel, create_model
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from rmt_rl.config import validated

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], arguments: Sequence[str], prog: str, description: str, default: Any = None) -> Model:
    """Read a config from command-line arguments, over a default one if given.

    Raises:
        UsageError: a value is out of range, or values don't fit together.
        SystemExit: an argument is unknown or can't be read, and tyro has said so (2); or help was asked for (0).
    """
    given = {} if default is None else {"default": default}
    values: Any = tyro.cli(model, args=arguments, prog=prog, description=description, registry=_PLAIN_VALUES, **given)
    return validated(model, values)


def with_options(base: type[Model], **classes: type[BaseModel]) -> type[Model]:
    """The config `base` with a section `NAME_options` for each class, its flags beginning with `--NAME.`."""
    fields: dict[str, Any] = {
        f"{name}_options": (Annotated[section, tyro.conf.arg(name=name)], section())
        for name, section in classes.items()
    }
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)


_PLAIN_VALUES = ConstructorRegistry()


@_PLAIN_VALUES.struct_rule
def _as_values(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Has tyro make a dictionary where it would make a config."""
    if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)):
        return None

    def values(**given: Any) -> dict[str, Any]:
        return given

    values.__doc__ = info.type.__doc__  # which tyro shows as the section's description
    fields = []
    for name, field in info.type.model_fields.items():
        default = tyro.MISSING_NONPROP if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(info.default, name) if isinstance(info.default, BaseModel) else default
        hint: Any = _without_constraints(field.annotation)
        for marker in field.metadata:
            hint = Annotated[hint, marker]
        fields.append(StructFieldSpec(name, hint, default, field.description))
    return StructConstructorSpec(values, tuple(fields))


def _without_constraints(hint: Any) -> Any:
    """The type without pydantic's constraints inside, which would clutter tyro's messages."""
    if get_origin(hint) is Annotated:
        return _without_constraints(get_args(hint)[0])
    parts = tuple(_without_constraints(part) for part in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return reduce(or_, parts)
    return GenericAlias(tuple, parts) if get_origin(hint) is tuple else hint
