"""Configs: immutable, validated, strict. A wrong field or value is an error that names it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of all configs: fields can't change, unknown ones are refused, defaults are validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
