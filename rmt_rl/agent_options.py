"""Options of every agent that learns from segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError, nearest
from rmt_rl.nn.heads import HeadName
from rmt_rl.registry import names

SeenName = Literal["return_to_go", "observation", "action"]
"""Tokens that an agent may see of each step."""


class AgentConfig(Frozen):
    """Options of every agent that learns from segments."""

    EARLIER: ClassVar[Mapping[str, Any]] = {"encoder": "small", "head": "gaussian"}

    segment_length: int = Field(30, ge=1, description="steps of a segment")
    width: int = Field(64, ge=2, description="width of a token")
    encoder: str = Field("auto", description="encoder of observations, see rmt-rl list, or module:Name")
    tokens: tuple[SeenName, ...] | None = Field(
        None, description="tokens of each step, in this order: return_to_go, observation, action (unset: the agent's)"
    )
    step_embedding: bool = Field(
        False, description="add a learned embedding of the step's place in its segment to the observation's token"
    )
    head: HeadName = Field(
        "auto",
        description="distribution of continuous actions: gaussian; bins, a softmax over 41 bins between the bounds; "
        "mixture, of 5 Gaussians; auto: bins where there are bounds, gaussian elsewhere",
    )

    @field_validator("tokens")
    @classmethod
    def _in_order(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        known = get_args(SeenName)
        if names != tuple(name for name in known if name in names) or "observation" not in names:
            shown = " ".join(names)
            raise UsageError(f"tokens={shown}: name observation, and others as needed, in the order {', '.join(known)}")
        return names

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, name: str) -> str:
        known = names("encoders")
        if name not in known and ":" not in name:  # `module:Name` is looked up when the agent is made
            raise UsageError(f"unknown encoder {name!r} (known: {', '.join(known)}){nearest(name, known)}")
        return name
