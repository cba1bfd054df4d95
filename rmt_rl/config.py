"""Configs: immutable, validated, strict. An error about them names the field, its value and the expected value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from rmt_rl.errors import UsageError, nearest
from rmt_rl.urls import without_password

INTEGER_LIMIT = 2**63  # numbers from here on don't fit into 64 bits
LONGEST_VALUE = 1000  # characters of a value in a message
SEED_LIMIT = 2**63  # number of seeds that PyTorch's generators accept
SEED_SPACING = "; environments played at once take the seeds from this one upwards, so choose seeds 1000 apart"


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Any number of strings; in Python, a string stands for itself alone."""


class Frozen(BaseModel):
    """Base of all configs: fields can't change, unknown fields are refused, defaults are validated.

    Attributes:
        EARLIER: values of options that configs and checkpoints of earlier versions lack.
    """

    EARLIER: ClassVar[Mapping[str, Any]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _in_64_bits(cls, value: Any) -> Any:
        """Refuse whole numbers that NumPy and PyTorch can't hold."""
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int) and abs(number) >= INTEGER_LIMIT for number in numbers):
            raise ValueError("a whole number must be below 2^63, about 9.2e18")
        return value

    def with_earlier(self) -> Self:
        """Return the config as an earlier version meant it: options that it lacks have their earlier values."""
        missing = self.EARLIER.keys() - self.model_fields_set
        values = {name: self.EARLIER[name] for name in missing}
        for name in type(self).model_fields:
            part = getattr(self, name)
            if isinstance(part, Frozen):
                values[name] = part.with_earlier()
        return self.model_copy(update=values)


class SavedState(Frozen, extra="ignore"):
    """Base of the JSON values in a checkpoint; keys that belong to other parts of the run are ignored."""


Model = TypeVar("Model", bound=BaseModel)
ConfigClass: TypeAlias = type[BaseModel]
Key: TypeAlias = int | str
OptionPath: TypeAlias = tuple[Key, ...]
"""Names and indices that lead from a config to one of its parts."""


def validated(model: type[Model], options: Mapping[str, object]) -> Model:
    """Return `model(**options)`.

    Raises:
        UsageError: an option is unknown or has a bad value; names the option, the value and the allowed values.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        message = _explain(error.errors(), model, options)
        raise UsageError(message) from None


class _Fault(NamedTuple):
    """The part of the options that an error is about.

    Attributes:
        path: path of the part.
        value: the part's value.
        section: the config that holds the part; the part itself if no single field is at fault.
        is_field: one field of `section` is at fault.
    """

    path: OptionPath
    value: object
    section: ConfigClass
    is_field: bool


def _explain(errors: Sequence[ErrorDetails], model: ConfigClass, options: object) -> str:
    """Return one line about the first error: the field, its value, the reason and the expected value."""
    first = errors[0]
    fault = _find_fault(first["loc"], model, options)
    keys = [str(key) for key in fault.path]
    name = ".".join(keys)
    reasons = _reasons(errors, fault.path)
    if not fault.is_field:
        return f"{name}: {reasons}" if name else reasons
    value = _short(without_password(repr(fault.value)))
    fields = fault.section.model_fields
    field_name = keys[-1]
    field = fields.get(field_name)
    if field is None:
        known = ", ".join(fields)
        similar = nearest(field_name, fields)
        return f"unknown option {name}={value} (known: {known}){similar}"
    is_missing = first["type"] == "missing"
    problem = f"{name} is missing" if is_missing else f"{name}={value}: {reasons}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):  # which says what is expected
        return problem
    expected = field.description
    return f"{problem}; expected {expected}" if expected else problem


def _short(text: str) -> str:
    """Return a value's text, cut in the middle if it is very long."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:100]}...{text[-50:]}"


def _reasons(errors: Sequence[ErrorDetails], path: OptionPath) -> str:
    """Return the messages about one part, joined: each alternative of a union reports an error about its field."""
    reasons = []
    for error in errors:
        start = error["loc"][: len(path)]
        reason = error["msg"].removeprefix("Value error, ")
        if start == path and reason not in reasons:
            reasons.append(reason)
    return " or ".join(reasons)


def _find_fault(location: OptionPath, section: ConfigClass, value: object) -> _Fault:
    """Follow the location of an error through nested configs, as far as the first field that isn't a config."""
    path: OptionPath = ()
    for key in location:
        path = (*path, key)
        value = _value_at(value, key)
        inner = _config_of(section, str(key))
        if inner is None or not isinstance(value, Mapping):
            return _Fault(path, value, section, is_field=True)
        section = inner
    return _Fault(path, value, section, is_field=False)


def _value_at(options: object, key: Key) -> object:
    """Return an option of a dictionary or of a config; None if there is no such option."""
    if isinstance(options, Mapping):
        return options.get(key)
    return getattr(options, str(key), None)


def _config_of(section: ConfigClass, name: str) -> ConfigClass | None:
    """Return the config class of a field; None if the field is unknown or isn't a config."""
    field = section.model_fields.get(name)
    annotation = None if field is None else field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
