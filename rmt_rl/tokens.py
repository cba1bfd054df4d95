"""Token kinds: what an agent sees of each step. A kind is one entry here: its encoder, and its value in both uses.

Dimensions: B batch elements, K steps of a segment, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from rmt_rl.data.segment import Segment, Tensors
from rmt_rl.nn.encoders import encoder, return_encoder

if TYPE_CHECKING:
    from rmt_rl.agent import AgentSpec

TokenName = Literal["return_to_go", "observation", "action"]


class Acting(NamedTuple):
    """The knowledge of an agent when it acts, as tensors on its device."""

    observation: Any  # (B, ...) of the present step
    return_to_go: Tensor  # (B,) of the present step, over the spec's scale
    action: Any = None  # (B, ...) of the last step; None before the first one


@dataclass(frozen=True)
class TokenKind:
    """A kind of token.

    Attributes:
        encoder: makes the module that turns values (..., *shape) into tokens (..., D), from a spec and D.
        in_segment: returns a segment's values (B, K, ...), for training.
        in_acting: returns a step's values (B, ...), for acting.
    """

    encoder: Callable[[AgentSpec, int], nn.Module]
    in_segment: Callable[[Segment, AgentSpec], Tensors]
    in_acting: Callable[[Acting], Any]


TOKENS: dict[TokenName, TokenKind] = {
    "return_to_go": TokenKind(
        encoder=lambda spec, width: return_encoder(width),
        in_segment=lambda segment, spec: segment.returns_to_go / spec.return_scale,
        in_acting=lambda acting: acting.return_to_go,
    ),
    "observation": TokenKind(
        encoder=lambda spec, width: encoder(spec.observation_space, width),
        in_segment=lambda segment, spec: segment.observations,
        in_acting=lambda acting: acting.observation,
    ),
    "action": TokenKind(
        encoder=lambda spec, width: encoder(spec.action_space, width),
        in_segment=lambda segment, spec: segment.actions,
        in_acting=lambda acting: acting.action,
    ),
}
