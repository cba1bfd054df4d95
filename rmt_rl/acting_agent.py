"""Agents that act step by step, by the same core that they learn with.

Dimensions: B batch elements (environments when acting), K steps of a segment, T tokens of a step call, D width, P
logits: parameters of the action's distribution, then hindsight classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmt_rl.base_agent import Array, BaseAgent
from rmt_rl.data.segment import Segment, moved
from rmt_rl.nn.heads import Head
from rmt_rl.nn.outputs import on_host
from rmt_rl.nn.sampling import BatchPart, Sampler
from rmt_rl.observations import check_batch_size, only_value
from rmt_rl.recurrence import SegmentRecurrent, Tree, put_lanes_, select_lanes
from rmt_rl.tokens import Acting, Encoding, TokenName, acting_input, put_late_first, to_tensors
from rmt_rl.trees import map_leaves

Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class ActingState:
    """The state of `Agent.predict`, carried from step to step; opaque to callers, one value for all environments.

    The next call consumes it, and may write into it.
    """

    cache: Any
    steps: Counts  # (B,) steps that each environment has in its open segment
    actions: Any  # (B, ...) the last actions, which aren't in the cache yet


class Attended(NamedTuple):
    """The outputs of `Agent.attend` for an observation.

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


class ActingAgent(BaseAgent):
    """An agent that acts with a core: Stable-Baselines3's interface.

    Attributes:
        core: the map from tokens and a state to outputs and the next state.
        encoding: the encoders of tokens.
        head: the distribution of actions.
        sampler: draws actions.
        takes_masks: `predict` has the argument `action_masks`.
        known: tokens of a step that are fed before acting.
        late: those that are fed with the next step.
    """

    core: SegmentRecurrent[Any, Any]
    encoding: Encoding
    head: Head
    sampler: Sampler
    takes_masks: ClassVar[bool] = True
    known: Sequence[TokenName]
    late: Sequence[TokenName]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Tokens of a full segment."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The core's state before an episode."""

    @abstractmethod
    def embedded(self, segment: Segment) -> Tensor:
        """Return the tokens (B, L, D) of a segment."""

    @abstractmethod
    def readout(self, y: Tensor, conditions: list[Tensor]) -> Tensor:
        """Return logits (..., P) from the core's outputs at observations and the steps' `conditions`, (..., D) each."""

    def replace_actions(self, state: Any, actions: Any, replaced: Array) -> Any:
        return replace(state, actions=map_leaves(np.copy, actions)) if isinstance(state, ActingState) else state

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
        action_masks: Array | None = None,
    ) -> tuple[Any, Any]:
        """Choose actions; see `BaseAgent.predict`.

        Args:
            observation: see there.
            state: see there.
            episode_start: see there.
            deterministic: see there.
            action_masks: True for each choice that is allowed, (P,) or (B, P), as sb3-contrib's MaskablePPO takes it.
        """
        if self.training:
            self.eval()
        attended = self.attend(observation, state, episode_start)
        for_action = attended.logits[:, : self.head.size]
        if action_masks is not None:
            allowed = np.asarray(action_masks, bool).reshape(len(for_action), -1)
            for_action = self.head.masked(for_action, torch.from_numpy(allowed).to(self.device))
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
            _, cache = self.core.step(self.embedded(segment), cache, lengths_B)
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


def _last(y_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the outputs (B, D) at the last real token of each batch element; all are real if `lengths_B` is None."""
    if lengths_B is None:
        return y_BTD[:, -1]
    last_B = lengths_B - 1
    last_B11 = last_B[:, None, None]
    return y_BTD.take_along_dim(last_B11, 1)[:, 0]
