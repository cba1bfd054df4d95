"""Agents: tokens of a trajectory in, a recurrent core, actions out; trained on segments, acting step by step.

Dimensions: B batch elements (environments when acting), K steps of a segment, L = K x tokens per step, T tokens of a
step call, D width, P logits: parameters of the action's distribution, then hindsight classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rmt_rl.agent_options import AgentConfig as AgentConfig
from rmt_rl.config import Frozen
from rmt_rl.data.segment import Segment, moved
from rmt_rl.errors import UsageError
from rmt_rl.learnable import drop_texts
from rmt_rl.nn.heads import head
from rmt_rl.nn.outputs import on_host
from rmt_rl.nn.sampling import BatchPart, Sampler
from rmt_rl.observations import check_batch_size, only_value
from rmt_rl.recurrence import SegmentRecurrent, Tree, put_lanes_, select_lanes
from rmt_rl.space_checks import check_spaces
from rmt_rl.tokens import (
    Acting,
    Encoding,
    TokenName,
    acting_input,
    known_and_late,
    make_encoders,
    make_scales,
    put_late_first,
    scales_of,
    to_tensors,
)
from rmt_rl.trees import map_leaves

Array: TypeAlias = NDArray[Any]
Counts: TypeAlias = NDArray[np.int64]


class AgentSpec(NamedTuple):
    """Facts of an agent's data that it is made for: spaces, and undiscounted returns to aim at and to scale by."""

    observation_space: Space[Any]
    action_space: Space[Any]
    target_return: float = 0.0
    return_scale: float = 1.0
    hindsight_classes: int = 0  # of its auxiliary loss (see `rmt_rl.task`); 0: it has none
    standardised: bool = False  # the agent scales its observations and actions, see `rmt_rl.nn.scaling`


class BaseAgent(nn.Module, ABC):
    """Base of everything that acts, is saved and is loaded. It is made from its own `Config` and a spec.

    `predict` has Stable-Baselines3's signature, so an agent is a `model` there and a `Policy` here.

    Attributes:
        Config: the class of its options.
        tokens: what it sees of each step, in this order.
        conditions: what only the prediction of the same step's action sees, beside the core's output.
        best_episodes: the share of a data set's episodes, those of the highest returns, that it learns from by default.
        learner: what trains it, as `module:Name`: a `rmt_rl.training.learner.AgentLearner`.
    """

    Config: ClassVar[type[Frozen]]
    tokens: tuple[TokenName, ...] = ("observation",)
    conditions: ClassVar[tuple[TokenName, ...]] = ()
    best_episodes: ClassVar[float] = 1.0
    learner: ClassVar[str]

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        super().__init__()
        check_spaces(spec.observation_space, spec.action_space)
        self.config = config
        self.spec = spec

    def unwrap(self, observation: Any) -> tuple[Any, Any]:
        """Return the observation, and the return-to-go (B, 1) that `rmt_rl.wrappers` put beside it, if they did."""
        space = self.spec.observation_space
        inner = observation
        space_has_one = isinstance(space, spaces.Dict) and "return_to_go" in space.spaces
        if space_has_one and isinstance(observation, dict):
            inner = observation.get("observation")
        is_wrapped = isinstance(inner, dict) and "return_to_go" in inner
        if not is_wrapped:
            return drop_texts(observation, space), None
        if observation.keys() != {"observation", "return_to_go"}:
            keys = sorted(map(str, observation))
            raise UsageError(f"observation holds the keys {keys}; beside return_to_go only 'observation' is expected")
        return drop_texts(observation["observation"], space), observation["return_to_go"]

    def target_return(self, wanted: float | None) -> float | None:
        """Return the return to aim at: `wanted`, else the spec's; None if the agent isn't conditioned on returns.

        Raises:
            UsageError: a return is wanted, but the agent isn't conditioned on returns.
        """
        if "return_to_go" in (*self.tokens, *self.conditions):
            return self.spec.target_return if wanted is None else wanted
        if wanted is not None:
            raise UsageError(f"target_return={wanted}: this agent isn't conditioned on returns; leave it out")
        return None

    @abstractmethod
    def set_random_seed(self, seed: int | None) -> None:
        """Seed the sampling of actions (`deterministic=False`); None draws a fresh seed."""

    def sample_part(self, part: BatchPart) -> None:
        """Sample as if the rows were a part of a larger batch, with the random numbers that they would have there.

        Raises:
            UsageError: agents of this class can't.
        """
        raise UsageError(
            f"agent {type(self).__name__}: it has no `sample_part`, so its sampled actions can't be drawn in parts; "
            "leave out --shards or --sample"
        )

    def replace_actions(self, state: Any, actions: Any, replaced: Array) -> Any:
        """Return the state after these actions, if it knows the last ones; see `rmt_rl.task.Informed`."""
        return replace(state, actions=map_leaves(np.copy, actions)) if isinstance(state, ActingState) else state

    @abstractmethod
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Array | None = None,
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
    steps: Counts  # (B,) steps that each environment has in its open segment
    actions: Any  # (B, ...) the last actions, which aren't in the cache yet


class Attended(NamedTuple):
    """What `Agent.attend` computes of an observation.

    Attributes:
        features: the core's outputs (B, D).
        logits: parameters (B, P) of the action's distribution, then hindsight classes.
        cache: that of the open segments.
        steps: (B,) steps in the open segments before this one.
        single: the observation came without the batch dimension.
    """

    features: Tensor
    logits: Tensor
    cache: Any
    steps: Counts
    single: bool

    def followed_by(self, actions: Any) -> ActingState:
        """Return the state after these actions (B, ...), which callers may change later."""
        return ActingState(self.cache, self.steps + 1, map_leaves(np.copy, actions))


class Agent(BaseAgent):
    """An agent that learns from segments: encoders and head from the spaces, around a core that a subclass composes.

    Each step gives the tokens named in `tokens`, in this order. The action is predicted from the core's output at the
    observation's token, so the action can't see itself. Without a return-to-go in the observation, an agent conditioned
    on returns aims at the spec's target return throughout.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    learner = "rmt_rl.training.segments:SegmentLearner"
    tokens: tuple[TokenName, ...] = ("return_to_go", "observation", "action")

    def __init__(self, config: AgentConfig, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.tokens = config.tokens or type(self).tokens
        added: dict[TokenName, TokenName] = {"observation": "step"} if config.step_embedding else {}
        self.encoders = make_encoders((*self.tokens, *self.conditions, *added.values()), spec, config)
        self.scales = make_scales(spec)
        self.encoding = Encoding(self.encoders, self.scales, added)
        self.core = self.build_core(config)
        self.head = head(spec.action_space, scales_of(self.scales, "action").tree(), config.head)
        logits = self.head.size + spec.hindsight_classes
        self.to_action = nn.Linear(config.width, logits)
        self.at_observation = self.tokens.index("observation")
        self.known, self.late = known_and_late(self.tokens)
        self.sampler = Sampler()

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
        y_BKD, state = self.features(segment, state)
        return self.readout(y_BKD, self.conditions_of(segment)), state

    def conditions_of(self, segment: Segment) -> list[Tensor]:
        """Return the `conditions` (B, K, D) of a segment's steps."""
        return self.encoding.segment(self.conditions, segment, self.spec)

    def features(self, segment: Segment, state: Any) -> tuple[Tensor, Any]:
        """Run one segment; return the core's outputs (B, K, D) at observations, and the next state."""
        per_step = len(self.tokens)
        lengths_B = None if segment.full else segment.lengths * per_step
        y_BLD, state = self.core(self._embedded(segment), state, lengths_B)
        return y_BLD[:, self.at_observation :: per_step], state

    def _embedded(self, segment: Segment) -> Tensor:
        """Return the tokens (B, L, D) of a segment."""
        tokens = self.encoding.segment(self.tokens, segment, self.spec)
        x_BKTD = torch.stack(tokens, 2)
        return x_BKTD.flatten(1, 2)

    def readout(self, y: Tensor, conditions: list[Tensor]) -> Tensor:
        """Return logits (..., P) from the core's outputs at observations and the steps' `conditions`, (..., D) each."""
        logits: Tensor = self.to_action(y)
        return logits

    def losses(self, logits_BKP: Tensor, segment: Segment, hindsight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return negative log-likelihood (nats) and accuracy of the actions, (B, K) each, zero at padding.

        The negative log-likelihood of the segment's hindsight classes is added with the weight `hindsight`.
        """
        sizes = [self.head.size, self.spec.hindsight_classes]
        logits_BKP = logits_BKP.float()
        for_action, for_hindsight = logits_BKP.split(sizes, -1)
        actions = segment.actions
        padding = ~segment.mask
        loss = self.head.loss(for_action, actions)
        if hindsight and segment.hindsight is not None:
            loss = loss + hindsight * hindsight_loss(for_hindsight, segment.hindsight)
        with torch.no_grad():
            correct = self.head.correct(for_action, actions)
        return loss.masked_fill(padding, 0), correct.masked_fill(padding, 0)

    # Acting (Stable-Baselines3's interface)

    def set_random_seed(self, seed: int | None) -> None:
        self.sampler.restart(seed)

    def sample_part(self, part: BatchPart) -> None:
        self.sampler.part = part

    @torch.inference_mode()
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        if self.training:
            self.eval()
        attended = self.attend(observation, state, episode_start)
        for_action = attended.logits[:, : self.head.size]
        chosen = self.head.choose(for_action, None) if deterministic else self.sampler.choose(self.head, for_action)
        actions = self.head.values(on_host(chosen, for_action))
        following = attended.followed_by(actions)
        if attended.single:
            actions = only_value(actions, self.spec.action_space)
        return actions, following

    def attend(self, observation: Any, state: Any = None, episode_start: Array | None = None) -> Attended:
        """Feed the next observations, before an action is chosen; arguments and errors are those of `predict`."""
        original, returns = self.unwrap(observation)
        acting, single = acting_input(original, returns, self.spec, self.device)
        batch_size = len(acting.return_to_go)
        if state is None:
            state = self._fresh(batch_size)
        check_batch_size("state", len(state.steps), batch_size)
        if episode_start is not None:
            starting = np.atleast_1d(episode_start)
            check_batch_size("episode_start", len(starting), batch_size)
            state = self._restart(state, np.flatnonzero(starting))
        state = self._close_full_segments(state)
        features, cache = self._advance(acting, state)
        logits = self.readout(features, self.encoding.acting(self.conditions, acting))
        return Attended(features, logits, cache, state.steps, single)

    def opened(self, state: Tree, segment: Segment) -> ActingState:
        """Return the state of acting behind the steps of open segments, of which some may have none yet.

        Args:
            state: the core's state before the segments.
            segment: their steps so far.
        """
        batch_size = len(segment.lengths)
        cache = self.core.begin(state, batch_size, self.capacity)
        steps = segment.lengths.cpu().numpy()
        last = (segment.lengths - 1).clamp(min=0)

        def last_of(leaf: Tensor) -> Array:
            return leaf[torch.arange(batch_size, device=leaf.device), last].cpu().numpy()

        actions = map_leaves(last_of, segment.actions)
        if steps.any():
            lengths_B = (segment.lengths * len(self.tokens) - len(self.late)).clamp(min=0)
            _, cache = self.core.step(self._embedded(segment), cache, lengths_B)
        return ActingState(cache, steps, actions)

    def _fresh(self, batch_size: int) -> ActingState:
        state = self.initial_state(batch_size)
        cache = self.core.begin(state, batch_size, self.capacity)
        steps = np.zeros(batch_size, np.int64)
        return ActingState(cache, steps, None)

    def _restart(self, state: ActingState, starting: Array) -> ActingState:
        """Return the state with fresh ones in the environments with these indices."""
        count = len(starting)
        steps = state.steps
        if not count or not steps.any():  # a fresh state needs no restart
            return state
        fresh = self._fresh(count)
        if count == len(steps):
            return fresh
        indices = moved(torch.from_numpy(starting), self.device)
        put_lanes_(state.cache, indices, fresh.cache)
        steps = steps.copy()
        steps[starting] = 0
        return replace(state, steps=steps)

    def _close_full_segments(self, state: ActingState) -> ActingState:
        """Feed the last action of every full segment, write its memory, and open the next segment."""
        full = state.steps == self.config.segment_length
        if not full.any():
            return state
        places = np.flatnonzero(full)
        indices = moved(torch.from_numpy(places), self.device)
        every = full.all()
        cache = state.cache if every else select_lanes(state.cache, indices)
        if self.late:
            actions = map_leaves(itemgetter(full), state.actions)
            late = self._late_tokens(actions)
            late_BTD = torch.stack(late, 1)
            _, cache = self.core.step(late_BTD, cache)
        memory = self.core.end(cache)
        cache = self.core.begin(memory, len(indices), self.capacity)
        if not every:
            cache = put_lanes_(state.cache, indices, cache)
        steps = np.where(full, 0, state.steps)
        return replace(state, cache=cache, steps=steps)

    def _late_tokens(self, actions: Any) -> list[Tensor]:
        """Return the tokens (B, D) that are known once the agent has acted."""
        no_returns = torch.empty(0)
        tensors = to_tensors(actions, self.device)
        acting = Acting(None, no_returns, tensors)
        return self.encoding.acting(self.late, acting)

    def _advance(self, acting: Acting, state: ActingState) -> tuple[Tensor, Tree]:
        """Feed [last action, return-to-go, observation]; return the core's outputs (B, D) and the next cache."""
        x_BTD, lengths_B = self._next_tokens(acting, state)
        y_BTD, cache = self.core.step(x_BTD, state.cache, lengths_B)
        return _last(y_BTD, lengths_B), cache

    def _next_tokens(self, acting: Acting, state: ActingState) -> tuple[Tensor, Tensor | None]:
        """Return the tokens (B, T, D) of a step and how many of them are real, int64 (B,); None if all are.

        Environments at their segment's start have no last action there.
        """
        known = self.encoding.acting(self.known, acting._replace(step=state.steps))
        inside = state.steps > 0
        if not self.late or not inside.any():
            x_BTD = torch.stack(known, 1)
            return x_BTD, None
        late = self._late_tokens(state.actions)
        if inside.all():
            x_BTD = torch.stack([*late, *known], 1)
            return x_BTD, None
        inside_B = moved(torch.from_numpy(inside), self.device)
        return put_late_first(late, known, inside_B)


def hindsight_loss(logits_BKC: Tensor, classes_BK: Tensor) -> Tensor:
    """Return the negative log-likelihood (B, K) of hindsight classes, zero at steps without a class (-1)."""
    return F.cross_entropy(logits_BKC.mT, classes_BK, ignore_index=-1, reduction="none")


def _last(y_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the outputs (B, D) at the last real token of each batch element; all are real if `lengths_B` is None."""
    if lengths_B is None:
        return y_BTD[:, -1]
    last_B = lengths_B - 1
    last_B11 = last_B[:, None, None]
    return y_BTD.take_along_dim(last_B11, 1)[:, 0]
