"""Agents: tokens of a trajectory in, a recurrent core, actions out; trained on segments, acting step by step.

Dimensions: B lanes, K steps of a segment, L = K x tokens per step, D width, P numbers of the heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, cast

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rmt_rl.config import Frozen
from rmt_rl.data.segment import Segment
from rmt_rl.errors import UsageError
from rmt_rl.nn.encoders import encoder, return_encoder
from rmt_rl.nn.heads import head
from rmt_rl.recurrence import SegmentRecurrent, Tree, put_lanes_, select_lanes
from rmt_rl.trees import map_leaves

Token = Literal["return_to_go", "observation", "action"]


class AgentConfig(Frozen):
    """What every agent that learns from segments has."""

    segment_length: int = Field(30, ge=1, description="steps of a segment")
    width: int = Field(64, ge=2, description="width of a token")


class AgentSpec(NamedTuple):
    """What an agent learns from its data besides weights: spaces, and returns (undiscounted) to aim at and scale by."""

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    target_return: float = 0.0
    return_scale: float = 1.0
    hindsight_classes: int = 0  # what its auxiliary loss tells apart (see `rmt_rl.task`); 0: it has none


class BaseAgent(nn.Module, ABC):
    """What acts, is saved and loaded: made from its own `Config` and a spec, then given its weights.

    `predict` is Stable-Baselines3's, so that it is a `model` there and a `Policy` here.
    """

    Config: ClassVar[type[Frozen]]
    tokens: ClassVar[tuple[Token, ...]] = ("observation",)  # what it sees of each step, in this order
    learner: ClassVar[str]  # what trains it, as `module:Name`: a class with the interface of `rmt_rl.training.learner`

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    def unwrap(self, observation: Any) -> tuple[Any, Any]:
        """The observation, and the return-to-go (B, 1) that `rmt_rl.wrappers` put beside it; None where they didn't."""
        space = self.spec.observation_space
        inner = observation
        if isinstance(space, gymnasium.spaces.Dict) and "return_to_go" in space.spaces:  # it has one itself
            inner = observation.get("observation")
        if not (isinstance(inner, dict) and "return_to_go" in inner):
            return observation, None
        return observation["observation"], observation["return_to_go"]

    def target_return(self, wanted: float | None) -> float | None:
        """The return to aim at: what is wanted, else the spec's; None of an agent that isn't conditioned on returns.

        Raises:
            UsageError: a return is wanted of such an agent.
        """
        if "return_to_go" in self.tokens:
            return self.spec.target_return if wanted is None else wanted
        if wanted is not None:
            raise UsageError(f"target_return={wanted}: this agent isn't conditioned on returns; leave it out")
        return None

    @abstractmethod
    def set_random_seed(self, seed: int | None) -> None:
        """Seed the sampling of actions (`deterministic=False`); None draws a fresh seed."""

    @abstractmethod
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose actions, as Stable-Baselines3's policies do, but the likeliest ones unless asked to sample.

        Args:
            observation: a value of the observation space, or a batch (B, ...) of them; or a Dict of it under
                `observation` with the `return_to_go` to condition on (see `rmt_rl.wrappers`).
            state: what the last call returned; None at first.
            episode_start: bool (B,), the lanes whose observation is the first of an episode.
            deterministic: the likeliest action; otherwise samples (see `set_random_seed`).

        Returns:
            Actions (B, ...), without B where the observation had none, and the state for the next call.

        Raises:
            UsageError: the observation's shape isn't the space's, or the arguments are of different numbers of lanes.
        """


@dataclass(frozen=True)
class ActingState:
    """What `Agent.predict` carries from step to step; opaque to callers, one value for all lanes.

    Like a cache it's consumed by the next call, which may write into it.
    """

    cache: Any
    steps: np.ndarray[Any, np.dtype[np.int64]]  # (B,) steps that each lane has in its open segment
    actions: Any  # (B, ...) the last actions, which aren't in the cache yet


class Agent(BaseAgent):
    """An agent that learns from segments: encoders and head from the spaces, around a core that a subclass composes.

    Each step gives the tokens named in `tokens`, in this order; its action is predicted from the core's output at
    the observation's token, so it can't see itself. Without a return-to-go in what it observes, an agent conditioned
    on it aims at the spec's target return throughout.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    learner = "rmt_rl.training.segments:SegmentLearner"
    tokens: ClassVar[tuple[Token, ...]] = ("return_to_go", "observation", "action")

    def __init__(self, config: AgentConfig, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        makers = {
            "return_to_go": lambda: return_encoder(config.width),
            "observation": lambda: encoder(spec.observation_space, config.width),
            "action": lambda: encoder(spec.action_space, config.width),
        }
        self.encoders = nn.ModuleDict({token: makers[token]() for token in self.tokens})
        self.core = self.build_core(config)
        self.head = head(spec.action_space)
        self.to_action = nn.Linear(config.width, self.head.size + spec.hindsight_classes)
        self.at_observation = self.tokens.index("observation")
        self.generator: torch.Generator | None = None  # of sampled actions, made where the first of them is drawn
        self.random_seed: int | None = None

    @abstractmethod
    def build_core(self, config: Any) -> SegmentRecurrent[Any, Any]:
        """Compose the core from the agent's own `Config`."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.to_action.weight.device

    @property
    def capacity(self) -> int:
        """Tokens of a full segment."""
        tokens: int = self.config.segment_length * len(self.tokens)
        return tokens

    def initial_state(self, batch_size: int) -> Any:
        """The core's state before an episode."""
        return self.core.initial_state(batch_size)

    # Training

    def forward(self, segment: Segment, state: Any) -> tuple[Tensor, Any]:
        """One segment: numbers (B, K, P) of the action head, then of the hindsight classes, and the next state."""
        values = {
            "return_to_go": segment.returns_to_go / self.spec.return_scale,
            "observation": segment.observations,
            "action": segment.actions,
        }
        x_BKND = torch.stack([self.encoders[token](values[token]) for token in self.tokens], 2)
        lengths = None if segment.full else segment.lengths * len(self.tokens)
        y_BLD, state = self.core(x_BKND.flatten(1, 2), state, lengths)
        return self.to_action(y_BLD[:, self.at_observation :: len(self.tokens)]), state

    def losses(self, numbers_BKP: Tensor, segment: Segment, hindsight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood (nats) and accuracy of the actions, (B, K) each, zero at padding.

        `hindsight` is the weight at which the negative log-likelihood of the segment's hindsight classes is added.
        """
        sizes = [self.head.size, self.spec.hindsight_classes]
        for_action, for_hindsight = numbers_BKP.float().split(sizes, -1)
        loss = self.head.loss(for_action, segment.actions)
        if hindsight and segment.hindsight is not None:
            missing = F.cross_entropy(for_hindsight.mT, segment.hindsight, ignore_index=-1, reduction="none")
            loss = loss + hindsight * missing
        with torch.no_grad():
            correct = self.head.correct(for_action, segment.actions).masked_fill(~segment.mask, 0)
        return loss.masked_fill(~segment.mask, 0), correct

    # Acting (Stable-Baselines3's interface)

    def set_random_seed(self, seed: int | None) -> None:
        self.random_seed, self.generator = seed, None

    @torch.inference_mode()
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        if self.training:
            self.eval()
        values, single = self._values(observation)
        lanes = values["return_to_go"].shape[0]
        if state is None:
            state = self._fresh(lanes)
        check_lanes("state", len(state.steps), lanes)
        if episode_start is not None:
            starting = np.atleast_1d(episode_start)
            check_lanes("episode_start", len(starting), lanes)
            state = self._restart(state, np.flatnonzero(starting))
        state = self._close_full_segments(state)
        numbers, cache = self._advance(values, state)
        actions = self.head.act(numbers[:, : self.head.size], None if deterministic else self._generator())
        following = ActingState(cache, state.steps + 1, map_leaves(np.copy, actions))  # callers may change theirs
        return map_leaves(lambda part: part[0], actions) if single else actions, following

    def _generator(self) -> torch.Generator:
        if self.generator is None or self.generator.device != self.device:
            self.generator = torch.Generator(self.device)
            self.generator.seed() if self.random_seed is None else self.generator.manual_seed(self.random_seed)
        return self.generator

    def _values(self, observation: Any) -> tuple[dict[str, Any], bool]:
        """Observation and return-to-go as batched tensors, and whether they came without the batch dimension."""
        observation, returns = self.unwrap(observation)
        leaf, leaf_space = observation, self.spec.observation_space
        while isinstance(leaf, dict | tuple):
            key = next(iter(leaf)) if isinstance(leaf, dict) else 0
            leaf, leaf_space = leaf[key], cast("Any", leaf_space)[key]
        shape, expected = np.shape(leaf), leaf_space.shape or ()
        single = shape == expected
        if not single and (len(shape) != len(expected) + 1 or shape[1:] != expected):
            raise UsageError(f"observation has shape {shape}; give one of shape {expected}, or a batch of them")
        if single:
            observation = map_leaves(lambda part: np.asarray(part)[None], observation)
        lanes = 1 if single else len(leaf)
        if returns is None:
            returns = np.full(lanes, self.spec.target_return)
        scaled = np.asarray(returns, np.float32).reshape(lanes) / self.spec.return_scale
        tensors = {"observation": map_leaves(self._tensor, observation), "return_to_go": self._tensor(scaled)}
        return tensors, single

    def _tensor(self, value: Any) -> Tensor:
        tensor = torch.as_tensor(np.asarray(value), device=self.device)
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    def _fresh(self, lanes: int) -> ActingState:
        cache = self.core.begin(self.initial_state(lanes), lanes, self.capacity)
        return ActingState(cache, np.zeros(lanes, np.int64), None)

    def _restart(self, state: ActingState, starting: np.ndarray[Any, Any]) -> ActingState:
        if not len(starting) or not state.steps.any():  # a state that is fresh is none to restart
            return state
        fresh = self._fresh(len(starting))
        if len(starting) == len(state.steps):
            return fresh
        put_lanes_(state.cache, torch.as_tensor(starting, device=self.device), fresh.cache)
        steps = state.steps.copy()
        steps[starting] = 0
        return ActingState(state.cache, steps, state.actions)

    def _close_full_segments(self, state: ActingState) -> ActingState:
        """Where a segment is full: feed its last action, write the memory and open the next segment."""
        full = state.steps == self.config.segment_length
        if not full.any():
            return state
        lanes = torch.as_tensor(np.flatnonzero(full), device=self.device)
        every = len(lanes) == len(full)
        cache = state.cache if every else select_lanes(state.cache, lanes)
        if "action" in self.tokens:
            actions = map_leaves(lambda part: self._tensor(part[full]), state.actions)
            _, cache = self.core.step(self.encoders["action"](actions)[:, None], cache)
        cache = self.core.begin(self.core.end(cache), len(lanes), self.capacity)
        cache = cache if every else put_lanes_(state.cache, lanes, cache)
        return ActingState(cache, np.where(full, 0, state.steps), state.actions)

    def _advance(self, values: dict[str, Any], state: ActingState) -> tuple[Tensor, Tree]:
        """Feed [last action, return-to-go, observation]; a lane at its segment's start has no last action there."""
        known = [self.encoders[token](values[token]) for token in self.tokens[: self.at_observation + 1]]
        inside = state.steps > 0
        if "action" not in self.tokens or not inside.any():
            y, cache = self.core.step(torch.stack(known, 1), state.cache)
            return self.to_action(y[:, -1]), cache
        action = self.encoders["action"](map_leaves(self._tensor, state.actions))
        x_BTD = torch.stack([action, *known], 1)
        if inside.all():
            y, cache = self.core.step(x_BTD, state.cache)
            return self.to_action(y[:, -1]), cache
        inside_B = torch.as_tensor(inside, device=self.device)
        # Lanes without a last action have their real tokens first and one of padding behind.
        x_BTD = torch.where(inside_B[:, None, None], x_BTD, x_BTD.roll(-1, 1))
        lengths = len(known) + inside_B.long()
        y, cache = self.core.step(x_BTD, state.cache, lengths)
        return self.to_action(y.take_along_dim((lengths - 1)[:, None, None], 1)[:, 0]), cache


def check_lanes(name: str, given: int, lanes: int) -> None:
    """Raise a UsageError unless what is called `name` has as many lanes as the observation."""
    if given != lanes:
        raise UsageError(f"{name} is of {given} lanes, the observation of {lanes}; begin anew with state=None")
