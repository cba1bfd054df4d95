"""Token kinds: what an agent sees of each step. A kind is one entry here: its encoder, and its value in both uses.

Dimensions: B batch elements, K steps of a segment, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmt_rl.data.segment import Segment, Tensors, moved, tensor_array
from rmt_rl.errors import UsageError
from rmt_rl.nn.scaling import FARTHEST, Scales
from rmt_rl.nn.space_encoder import encoder, observation_encoder, return_encoder
from rmt_rl.numbers import ACTING, check_plain_numbers
from rmt_rl.observations import ObservedBatch, observed_batch, plain_array
from rmt_rl.trees import map_leaves

if TYPE_CHECKING:
    from rmt_rl.agent import AgentSpec
    from rmt_rl.agent_options import AgentConfig

TokenName = Literal["return_to_go", "observation", "action", "step"]
STEP_SIZE = 0.5
"""Standard deviation of the step embedding's weights at first: half of an observation's."""


class Acting(NamedTuple):
    """The knowledge of an agent when it acts, as tensors on its device."""

    observation: Any  # (B, ...) of the present step
    return_to_go: Tensor  # (B,) of the present step, over the spec's scale
    action: Any = None  # (B, ...) of the last step; None before the first one
    step: NDArray[np.int64] | None = None  # (B,) places of the present step in its segment, on the host


@dataclass(frozen=True)
class TokenKind:
    """A kind of token.

    Attributes:
        encoder: makes the module that turns values (..., *shape) into tokens (..., D).
        in_segment: returns a segment's values (B, K, ...), for training.
        in_acting: returns a step's values (B, ...), for acting.
    """

    encoder: Callable[[AgentSpec, AgentConfig], nn.Module]
    in_segment: Callable[[Segment, AgentSpec], Tensors]
    in_acting: Callable[[Acting], Any]


TOKENS: dict[TokenName, TokenKind] = {
    "return_to_go": TokenKind(
        encoder=lambda spec, config: return_encoder(config.width),
        in_segment=lambda segment, spec: segment.returns_to_go / spec.return_scale,
        in_acting=lambda acting: acting.return_to_go,
    ),
    "observation": TokenKind(
        encoder=lambda spec, config: observation_encoder(spec.observation_space, config.width, config.encoder),
        in_segment=lambda segment, spec: segment.observations,
        in_acting=lambda acting: acting.observation,
    ),
    "action": TokenKind(
        encoder=lambda spec, config: encoder(spec.action_space, config.width),
        in_segment=lambda segment, spec: segment.actions,
        in_acting=lambda acting: acting.action,
    ),
    "step": TokenKind(
        encoder=lambda spec, config: _step_encoder(config),
        in_segment=lambda segment, spec: _places(segment.returns_to_go),
        in_acting=lambda acting: acting.step,
    ),
}


class StepEmbedding(nn.Embedding):
    """Embedding of a step's place in its segment."""

    def forward(self, places: Tensor | NDArray[np.int64]) -> Tensor:
        """Map places (...,), which may be an array on the host, to (..., D)."""
        if isinstance(places, np.ndarray):
            places = moved(torch.from_numpy(places), self.weight.device)
        return super().forward(places)


def _hidden_token(like: Tensor) -> Tensor:
    """Return the token (D,) in the place of hidden actions: cosines, since a layer norm makes zeros of a constant one.

    Where keys are normalised, as in Titans, the gradient at zeros is 1e12 times too large.
    """
    places = torch.arange(like.shape[-1], device=like.device)
    return (STEP_SIZE * torch.cos(places)).to(like.dtype)


def _places(steps_BK: Tensor) -> Tensor:
    """Return the places (K,) of the steps of a segment."""
    return torch.arange(steps_BK.shape[1], device=steps_BK.device)


def _step_encoder(config: AgentConfig) -> StepEmbedding:
    embedding = StepEmbedding(config.segment_length, config.width)
    nn.init.normal_(embedding.weight, std=STEP_SIZE)
    return embedding


def make_encoders(names: Sequence[TokenName], spec: AgentSpec, config: AgentConfig) -> nn.ModuleDict:
    """Return the encoders of the tokens with these names, by name."""
    encoders = nn.ModuleDict()
    for name in names:
        encoders[name] = TOKENS[name].encoder(spec, config)
    return encoders


def known_and_late(names: Sequence[TokenName]) -> tuple[Sequence[TokenName], Sequence[TokenName]]:
    """Return the tokens known before acting, up to the observation, and those fed with the next step."""
    behind = names.index("observation") + 1
    return names[:behind], names[behind:]


def make_scales(spec: AgentSpec) -> nn.ModuleDict:
    """Return the scales of observations and actions, by token name; they scale nothing unless the spec asks for it."""
    active = spec.standardised
    return nn.ModuleDict(
        {
            "observation": Scales(spec.observation_space, farthest=FARTHEST, active=active),
            "action": Scales(spec.action_space, active=active),
        }
    )


def scales_of(scales: nn.ModuleDict, name: TokenName) -> Scales:
    """Return the scales of a token's values."""
    return cast("Scales", scales[name])


class Encoding(NamedTuple):
    """The modules that turn values into tokens, by token name.

    Attributes:
        encoders: the encoders.
        scales: the scales of values; values without one are encoded as they are.
        added: for a token, the kind whose encoding is added to it.
    """

    encoders: nn.ModuleDict
    scales: nn.ModuleDict
    added: Mapping[TokenName, TokenName] = MappingProxyType({})

    def segment(self, names: Sequence[TokenName], segment: Segment, spec: AgentSpec) -> list[Tensor]:
        """Return the tokens (B, K, D) of a segment for each of these names, with one fixed token for hidden actions."""
        tokens = self._tokens(names, lambda kind: kind.in_segment(segment, spec))
        if segment.hides_actions is not None and "action" in names:
            place = names.index("action")
            token = tokens[place]
            tokens[place] = torch.where(segment.hides_actions[:, None, None], _hidden_token(token), token)
        return tokens

    def acting(self, names: Sequence[TokenName], acting: Acting) -> list[Tensor]:
        """Return the tokens (B, D) of a step for each of these names."""
        return self._tokens(names, lambda kind: kind.in_acting(acting))

    def _tokens(self, names: Sequence[TokenName], value_of: Callable[[TokenKind], Any]) -> list[Tensor]:
        tokens = []
        for name in names:
            token = self._token(name, value_of)
            if name in self.added:
                token = token + self._token(self.added[name], value_of)
            tokens.append(token)
        return tokens

    def _token(self, name: TokenName, value_of: Callable[[TokenKind], Any]) -> Tensor:
        value = value_of(TOKENS[name])
        if name in self.scales:
            value = self.scales[name](value)
        token: Tensor = self.encoders[name](value)
        return token


def to_tensors(value: Any, device: torch.device) -> Any:
    """Return the value with its arrays as tensors on the device, in the dtypes of a segment's."""

    def to_tensor(leaf: Any) -> Tensor:
        array = tensor_array(np.asarray(leaf))
        return moved(torch.from_numpy(array), device)

    return map_leaves(to_tensor, value)


class ObservedInput(NamedTuple):
    """Observations and returns-to-go of a step, as arrays.

    Attributes:
        batch: the observations.
        returns: their returns-to-go (B,), float32, in the environment's unit.
    """

    batch: ObservedBatch
    returns: NDArray[np.float32]


def observed_input(observation: Any, returns: Any, spec: AgentSpec) -> ObservedInput:
    """Return observations and their returns-to-go as batches; without returns, the spec's target return is theirs.

    Raises:
        UsageError: the observation isn't one of the space, or its return-to-go isn't one number each.
    """
    batch = observed_batch(observation, spec.observation_space)
    if returns is None:
        returns = np.full(batch.size, spec.target_return)
    array = plain_array(returns, "return_to_go")
    check_plain_numbers(array, "return_to_go", ACTING)
    if array.size != batch.size:
        raise UsageError(f"return_to_go has shape {array.shape}; give one number for each of {batch.size} observations")
    return ObservedInput(batch, array.reshape(batch.size).astype(np.float32))


def acting_input(
    observation: Any,
    returns: Any,
    spec: AgentSpec,
    device: torch.device,
) -> tuple[Acting, bool]:
    """Return the observation and return-to-go, batched, and whether they came without the batch dimension.

    Raises:
        UsageError: as in `observed_input`.
    """
    batch, array = observed_input(observation, returns, spec)
    scaled = array / spec.return_scale
    observations = map_leaves(lambda leaf: moved(torch.from_numpy(leaf), device), batch.values)
    return Acting(observations, to_tensors(scaled, device)), batch.is_single


def put_late_first(
    late: list[Tensor],
    known: list[Tensor],
    inside_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T, D) and how many are real, int64 (B,): only batch elements `inside_B` have the late tokens.

    Real tokens come first, padding behind them.
    """
    all_BTD = torch.stack([*late, *known], 1)
    known_first_BTD = all_BTD.roll(-len(late), 1)
    inside_B11 = inside_B[:, None, None]
    x_BTD = torch.where(inside_B11, all_BTD, known_first_BTD)
    late_B = len(late) * inside_B.long()
    lengths_B = len(known) + late_B
    return x_BTD, lengths_B
