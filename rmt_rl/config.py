"""Configs: immutable, validated, strict. A wrong field or value is one error that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from rmt_rl.errors import UsageError, nearest

SEEDS = 2**63  # how many PyTorch's generators know
APART = "; environments played at once count up from it, so choose seeds 1000 apart"


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Any number of strings; in Python, a string stands for itself alone."""


class Frozen(BaseModel):
    """Base of all configs: fields can't change, unknown ones are refused, defaults are validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SavedState(Frozen, extra="ignore"):
    """Base of what a checkpoint keeps as JSON; keys that belong to other parts of the run are ignored."""


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], options: Mapping[str, Any]) -> Model:
    """Return `model(**options)`.

    Raises:
        UsageError: an option is unknown or has a bad value; names the option, the value and what is allowed.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        message = _explain([(each["type"], each["loc"], each["msg"]) for each in error.errors()], model, options)
        raise UsageError(message) from None


class _Place(NamedTuple):
    """Where an error is."""

    names: Sequence[Any]  # from the config down to the field
    value: Any
    section: type[BaseModel]  # the config that the field is in; where no field is at fault, the config itself
    inside: bool  # a field of the section is at fault


def _explain(errors: Sequence[tuple[str, Sequence[Any], str]], model: type[BaseModel], options: Any) -> str:
    """One line for the first error (type, location, message): field, value, what is wrong and what was expected."""
    place = _locate(errors[0][1], model, options)
    name, fields = ".".join(map(str, place.names)), place.section.model_fields
    # The alternatives of a union each have their say about one field.
    about = [message for _, location, message in errors if list(location[: len(place.names)]) == place.names]
    reasons = " or ".join(dict.fromkeys(message.removeprefix("Value error, ") for message in about))
    if not place.inside:
        return f"{name}: {reasons}" if name else reasons
    field = fields.get(place.names[-1])
    if field is None:
        known = ", ".join(fields)
        return f"unknown option {name}={place.value!r} (known: {known}){nearest(str(place.names[-1]), fields)}"
    what = f"{name} is missing" if errors[0][0] == "missing" else f"{name}={place.value!r}: {reasons}"
    return f"{what}; expected {field.description}" if field.description else what


def _locate(location: Sequence[Any], section: type[BaseModel], value: Any) -> _Place:
    """Follow a location through nested configs as far as a field that is none."""
    names: list[Any] = []
    for part in location:
        names.append(part)
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, str(part), None)
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(value, Mapping)):
            return _Place(names, value, section, inside=True)
        section = annotation
    return _Place(names, value, section, inside=False)
