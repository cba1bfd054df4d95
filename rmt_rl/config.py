"""Configs: immutable, validated, strict. A wrong field or value is one error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rmt_rl.errors import UsageError, nearest


class Frozen(BaseModel):
    """Base of all configs: fields can't change, unknown ones are refused, defaults are validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], options: Mapping[str, Any]) -> Model:
    """Return `model(**options)`.

    Raises:
        UsageError: an option is unknown or has a bad value; names the option, the value and what is allowed.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise UsageError(explain(error, model)) from None


def explain(error: ValidationError, model: type[BaseModel] = BaseModel) -> str:
    """One line for pydantic's first complaint: the field, its value, what is wrong and what was expected."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    fields, depth = model.model_fields, 0
    while depth < len(path) - 1 and _section(fields, path[depth]):
        fields, depth = fields[path[depth]].annotation.model_fields, depth + 1  # type: ignore[union-attr]
    if not path:
        return str(first["msg"])
    name = ".".join(path[: depth + 1])
    if first["type"] != "extra_forbidden" and path[depth] not in fields:  # the model isn't known
        return f"{name}={first['input']!r}: {first['msg']}"
    if path[depth] not in fields:
        return f"unknown option {name}={first['input']!r} (known: {', '.join(fields)}){nearest(path[depth], fields)}"
    same = [each for each in error.errors() if [str(part) for part in each["loc"][: depth + 1]] == path[: depth + 1]]
    reasons = " or ".join(dict.fromkeys(each["msg"] for each in same))
    expected = fields[path[depth]].description
    return f"{name}={first['input']!r}: {reasons}" + (f"; expected {expected}" if expected else "")


def _section(fields: Mapping[str, Any], name: str) -> bool:
    """Whether a field is itself a config."""
    return (
        name in fields and isinstance(fields[name].annotation, type) and issubclass(fields[name].annotation, BaseModel)
    )
