"""Agents: tokens of a trajectory in, a recurrent core, actions out; trained on segments, acting step by step.

Dimensions: B batch elements (environments when acting), K steps of a segment, L = K x tokens per step, T tokens of a
step call, D width, P logits: parameters of the action's distribution, then hindsight classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rmt_rl.config import Frozen
from rmt_rl.data.segment import Segment
from rmt_rl.errors import UsageError
from rmt_rl.nn.heads import head
from rmt_rl.recurrence import SegmentRecurrent, Tree, put_lanes_, select_lanes
from rmt_rl.tokens import TOKENS, Acting, TokenName
from rmt_rl.trees import leaves, map_leaves, part_at


class AgentConfig(Frozen):
    """Options of every agent that learns from segments."""

    segment_length: int = Field(30, ge=1, description="steps of a segment")
    width: int = Field(64, ge=2, description="width of a token")


class AgentSpec(NamedTuple):
    """Facts of an agent's data that it is made for: spaces, and undiscounted returns to aim at and to scale by."""

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    target_return: float = 0.0
    return_scale: float = 1.0
    hindsight_classes: int = 0  # of its auxiliary loss (see `rmt_rl.task`); 0: it has none


class BaseAgent(nn.Module, ABC):
    """Base of everything that acts, is saved and is loaded. It is made from its own `Config` and a spec.

    `predict` has Stable-Baselines3's signature, so an agent is a `model` there and a `Policy` here.

    Attributes:
        Config: the class of its options.
        tokens: what it sees of each step, in this order.
        learner: what trains it, as `module:Name`: a `rmt_rl.training.learner.AgentLearner`.
    """

    Config: ClassVar[type[Frozen]]
    tokens: ClassVar[tuple[TokenName, ...]] = ("observation",)
    learner: ClassVar[str]

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    def unwrap(self, observation: Any) -> tuple[Any, Any]:
        """Return the observation, and the return-to-go (B, 1) that `rmt_rl.wrappers` put beside it, if they did."""
        space = self.spec.observation_space
        inner = observation
        if isinstance(space, gymnasium.spaces.Dict) and "return_to_go" in space.spaces:  # it has one itself
            inner = observation.get("observation")
        if not (isinstance(inner, dict) and "return_to_go" in inner):
            return observation, None
        return observation["observation"], observation["return_to_go"]

    def target_return(self, wanted: float | None) -> float | None:
        """Return the return to aim at: `wanted`, else the spec's; None if the agent isn't conditioned on returns.

        Raises:
            UsageError: a return is wanted, but the agent isn't conditioned on returns.
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
        """Choose actions, as Stable-Baselines3's policies do; unlike theirs, the default is the likeliest action.

        Args:
            observation: a value of the observation space, or a batch (B, ...) of them; or a Dict of it under
                `observation` with the `return_to_go` to condition on (see `rmt_rl.wrappers`).
            state: what the last call returned; None at first.
            episode_start: bool (B,), True for environments whose observation is the first of an episode.
            deterministic: choose the likeliest action; otherwise sample (see `set_random_seed`).

        Returns:
            Actions (B, ...), without B where the observation had none, and the state for the next call.

        Raises:
            UsageError: the observation's shape isn't the space's, or the arguments are of different batch sizes.
        """


@dataclass(frozen=True)
class ActingState:
    """The state of `Agent.predict`, carried from step to step; opaque to callers, one value for all environments.

    The next call consumes it, and may write into it.
    """

    cache: Any
    steps: np.ndarray[Any, np.dtype[np.int64]]  # (B,) steps that each environment has in its open segment
    actions: Any  # (B, ...) the last actions, which aren't in the cache yet


class Agent(BaseAgent):
    """An agent that learns from segments: encoders and head from the spaces, around a core that a subclass composes.

    Each step gives the tokens named in `tokens`, in this order. The action is predicted from the core's output at the
    observation's token, so the action can't see itself. Without a return-to-go in the observation, an agent conditioned
    on returns aims at the spec's target return throughout.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    learner = "rmt_rl.training.segments:SegmentLearner"
    tokens: ClassVar[tuple[TokenName, ...]] = ("return_to_go", "observation", "action")

    def __init__(self, config: AgentConfig, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        makers = {name: TOKENS[name].encoder for name in self.tokens}
        self.encoders = nn.ModuleDict({name: maker(spec, config.width) for name, maker in makers.items()})
        self.core = self.build_core(config)
        self.head = head(spec.action_space)
        self.to_action = nn.Linear(config.width, self.head.size + spec.hindsight_classes)
        self.at_observation = self.tokens.index("observation")
        self.known = self.tokens[: self.at_observation + 1]  # before acting
        self.late = self.tokens[self.at_observation + 1 :]  # known once the agent has acted: fed with the next step
        self.generator: torch.Generator | None = None  # of sampled actions, made where the first of them is drawn
        self.random_seed: int | None = None

    @abstractmethod
    def build_core(self, config: Any) -> SegmentRecurrent[Any, Any]:
        """Compose the core from the agent's own `Config`."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
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
        """Run one segment; return the logits (B, K, P) and the next state."""
        values = [TOKENS[name].in_segment(segment, self.spec) for name in self.tokens]
        encoded = [self.encoders[name](value) for name, value in zip(self.tokens, values, strict=True)]
        x_BLD = torch.stack(encoded, 2).flatten(1, 2)
        lengths = None if segment.full else segment.lengths * len(self.tokens)
        y_BLD, state = self.core(x_BLD, state, lengths)
        return self.to_action(y_BLD[:, self.at_observation :: len(self.tokens)]), state

    def losses(self, logits_BKP: Tensor, segment: Segment, hindsight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return negative log-likelihood (nats) and accuracy of the actions, (B, K) each, zero at padding.

        The negative log-likelihood of the segment's hindsight classes is added with the weight `hindsight`.
        """
        sizes = [self.head.size, self.spec.hindsight_classes]
        for_action, for_hindsight = logits_BKP.float().split(sizes, -1)
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
        acting, single = self._acting(observation)
        batch_size = len(acting.return_to_go)
        if state is None:
            state = self._fresh(batch_size)
        check_batch_size("state", len(state.steps), batch_size)
        if episode_start is not None:
            starting = np.atleast_1d(episode_start)
            check_batch_size("episode_start", len(starting), batch_size)
            state = self._restart(state, np.flatnonzero(starting))
        state = self._close_full_segments(state)
        logits, cache = self._advance(acting, state)
        actions = self.head.act(logits[:, : self.head.size], None if deterministic else self._generator())
        following = ActingState(cache, state.steps + 1, map_leaves(np.copy, actions))  # callers may change theirs
        return map_leaves(lambda part: part[0], actions) if single else actions, following

    def _generator(self) -> torch.Generator:
        if self.generator is None or self.generator.device != self.device:
            self.generator = torch.Generator(self.device)
            self.generator.seed() if self.random_seed is None else self.generator.manual_seed(self.random_seed)
        return self.generator

    def _acting(self, observation: Any) -> tuple[Acting, bool]:
        """Return the observation and return-to-go, batched, and whether they came without the batch dimension."""
        observation, returns = self.unwrap(observation)
        batch_size, single = self._batch_size(observation)
        if single:
            observation = map_leaves(lambda part: np.asarray(part)[None], observation)
        if returns is None:
            returns = np.full(batch_size, self.spec.target_return)
        scaled = np.asarray(returns, np.float32).reshape(batch_size) / self.spec.return_scale
        return Acting(map_leaves(self._tensor, observation), self._tensor(scaled)), single

    def _batch_size(self, observation: Any) -> tuple[int, bool]:
        """Return the batch size of an observation, and whether it is single: without the batch dimension.

        Raises:
            UsageError: its shape isn't the space's.
        """
        place, leaf = next(leaves(observation))
        shape, expected = np.shape(leaf), part_at(self.spec.observation_space, place).shape or ()
        if shape == expected:
            return 1, True
        if len(shape) != len(expected) + 1 or shape[1:] != expected:
            raise UsageError(f"observation has shape {shape}; give one of shape {expected}, or a batch of them")
        return shape[0], False

    def _tensor(self, value: Any) -> Tensor:
        tensor = torch.as_tensor(np.asarray(value), device=self.device)
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    def _fresh(self, batch_size: int) -> ActingState:
        cache = self.core.begin(self.initial_state(batch_size), batch_size, self.capacity)
        return ActingState(cache, np.zeros(batch_size, np.int64), None)

    def _restart(self, state: ActingState, starting: np.ndarray[Any, Any]) -> ActingState:
        """Return the state with fresh ones in the environments with these indices."""
        if not len(starting) or not state.steps.any():  # a fresh state needs no restart
            return state
        fresh = self._fresh(len(starting))
        if len(starting) == len(state.steps):
            return fresh
        put_lanes_(state.cache, torch.as_tensor(starting, device=self.device), fresh.cache)
        steps = state.steps.copy()
        steps[starting] = 0
        return ActingState(state.cache, steps, state.actions)

    def _close_full_segments(self, state: ActingState) -> ActingState:
        """Feed the last action of every full segment, write its memory, and open the next segment."""
        full = state.steps == self.config.segment_length
        if not full.any():
            return state
        indices = torch.as_tensor(np.flatnonzero(full), device=self.device)
        every = len(indices) == len(full)
        cache = state.cache if every else select_lanes(state.cache, indices)
        if self.late:
            actions = map_leaves(lambda part: part[full], state.actions)
            _, cache = self.core.step(torch.stack(self._late_tokens(actions), 1), cache)
        cache = self.core.begin(self.core.end(cache), len(indices), self.capacity)
        cache = cache if every else put_lanes_(state.cache, indices, cache)
        return ActingState(cache, np.where(full, 0, state.steps), state.actions)

    def _late_tokens(self, actions: Any) -> list[Tensor]:
        """Return the tokens (B, D) that are known once the agent has acted."""
        acting = Acting(None, torch.empty(0), map_leaves(self._tensor, actions))
        return [self.encoders[name](TOKENS[name].in_acting(acting)) for name in self.late]

    def _advance(self, acting: Acting, state: ActingState) -> tuple[Tensor, Tree]:
        """Feed [last action, return-to-go, observation]; return the logits (B, P) and the next cache.

        Environments at their segment's start have no last action there.
        """
        known = [self.encoders[name](TOKENS[name].in_acting(acting)) for name in self.known]
        inside = state.steps > 0
        if not self.late or not inside.any():
            y, cache = self.core.step(torch.stack(known, 1), state.cache)
            return self.to_action(y[:, -1]), cache
        late = self._late_tokens(state.actions)
        x_BTD = torch.stack([*late, *known], 1)
        if inside.all():
            y, cache = self.core.step(x_BTD, state.cache)
            return self.to_action(y[:, -1]), cache
        inside_B = torch.as_tensor(inside, device=self.device)
        # Without a last action the real tokens come first, then padding.
        x_BTD = torch.where(inside_B[:, None, None], x_BTD, x_BTD.roll(-len(late), 1))
        lengths = len(known) + len(late) * inside_B.long()
        y, cache = self.core.step(x_BTD, state.cache, lengths)
        return self.to_action(y.take_along_dim((lengths - 1)[:, None, None], 1)[:, 0]), cache


def check_batch_size(name: str, given: int, batch_size: int) -> None:
    """Raise a UsageError unless the argument `name` has the observation's batch size."""
    if given != batch_size:
        raise UsageError(
            f"{name} is of {given} environments, the observation of {batch_size}; begin anew with state=None"
        )
