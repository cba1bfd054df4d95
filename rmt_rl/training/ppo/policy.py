"""An agent with a critic, as Stable-Baselines3's PPO trains it.

Dimensions: B environments (lanes), C chains of segments, K steps of a segment, N steps of a minibatch, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rmt_rl.agent import ActingState, Agent
from rmt_rl.data.segment import Segment
from rmt_rl.recurrence import Tree, select_lanes
from rmt_rl.training.ppo.played import Places
from rmt_rl.training.ppo.unrolling import Outputs, Unroller
from rmt_rl.trees import map_leaves

Array = NDArray[Any]


class Choice(NamedTuple):
    """The actions of a step, with their probabilities.

    Attributes:
        actions: (B, ...), values of the action space.
        chosen: (B, N) what the head chose, which the actions are made of.
        values: (B,) of the states before.
        log_probabilities: (B,) of the actions.
        state: of acting, for the next step.
    """

    actions: Any
    chosen: Array
    values: Tensor
    log_probabilities: Tensor
    state: ActingState


class Chains(NamedTuple):
    """Sequences of consecutive segments to learn from; the gradient crosses the borders inside a sequence.

    Attributes:
        segments: the first segment of each sequence (C, K, ...), the second one, and so on, with their places.
        state: the core's state before the first ones.
        start: the logits (N, P) that the agent had at its start, in the order of evaluation; None without a leash.
        allowed: the action masks (N, M), in the same order; None if there are none.
    """

    segments: Sequence[tuple[Segment, Places]]
    state: Tree
    start: Tensor | None = None
    allowed: Tensor | None = None


class SegmentPolicy(nn.Module):
    """An agent and a critic that reads the outputs of the agent's core.

    Args:
        agent: it is trained in place.
        learning_rate: of Adam.
        replay: hold the activations of one segment only, and compute those of others anew.
        precision: the number format of the core, `bf16-mixed` or `32-true`.

    Attributes:
        leash_weight: weight of the divergence from the agent as it was at its start.
        divergences: of the minibatches so far, if there is a leash.
    """

    def __init__(self, agent: Agent, learning_rate: float, replay: bool = False, precision: str = "32-true") -> None:
        super().__init__()
        width = agent.config.width
        self.agent = agent
        self.critic = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)).to(agent.device)
        self.replay = replay
        self.unroller = Unroller(agent, precision)
        self.leash_weight = 0.0
        self.divergences: list[float] = []
        self.optimizer = torch.optim.Adam(self.parameters(), learning_rate, eps=1e-5)

    @property
    def is_conditioned(self) -> bool:
        """True if the agent sees returns-to-go."""
        return "return_to_go" in (*self.agent.tokens, *self.agent.conditions)

    def set_training_mode(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self.train(mode)

    # Acting

    @torch.no_grad()
    def choose(
        self,
        observation: Any,
        returns: Array,
        state: ActingState | None,
        starts: NDArray[np.bool_],
        allowed: Array | None = None,
    ) -> Choice:
        """Draw actions for the next observations (B, ...), seen with returns-to-go (B,) and action masks (B, M)."""
        agent = self.agent
        with self.unroller.autocast():
            attended = agent.attend(self._seen(observation, returns), state, starts)
        logits = attended.logits[:, : agent.head.size].float()
        if allowed is not None:
            logits = agent.head.masked(logits, torch.from_numpy(allowed).to(logits.device))
        chosen = agent.sampler.choose(agent.head, logits)
        log_probabilities = -agent.head.chosen_loss(logits, chosen)
        on_host = chosen.cpu().numpy()
        actions = agent.head.values(on_host)
        following = attended.followed_by(actions)
        return Choice(actions, on_host, self._value(attended.features), log_probabilities, following)

    @torch.no_grad()
    def values(self, observation: Any, returns: Array, state: ActingState, lanes: NDArray[np.int64]) -> Tensor:
        """Return the values (b,) of observations (b, ...) that come next in some lanes, whose state stays as it is."""
        indices = torch.from_numpy(lanes).to(self.agent.device)
        actions = map_leaves(lambda leaf: leaf[lanes], state.actions)
        own = ActingState(select_lanes(state.cache, indices), state.steps[lanes], actions)
        with self.unroller.autocast():
            attended = self.agent.attend(self._seen(observation, returns), own)
        return self._value(attended.features)

    def _seen(self, observation: Any, returns: Array) -> Any:
        if not self.is_conditioned:
            return observation
        return {"observation": observation, "return_to_go": returns[:, None]}

    # Learning

    def evaluate_actions(self, chains: Chains, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and entropies of the steps of chains, (N,) each.

        Args:
            chains: the segments.
            actions: what the head chose in these steps.
        """
        head = self.agent.head
        state = chains.state
        features, logits = [], []
        for segment, places in chains.segments:
            outputs = self._run(segment, state)
            state = outputs.state
            real = torch.from_numpy(places.real).to(outputs.logits.device)
            features.append(outputs.features[real])
            logits.append(outputs.logits[real])
        logits_NP = torch.cat(logits).float()
        if chains.allowed is not None:
            logits_NP = head.masked(logits_NP, chains.allowed)
        chosen = actions.reshape(len(logits_NP), head.count)
        values = self._value(torch.cat(features))
        if chains.start is not None:
            start_NP = chains.start if chains.allowed is None else head.masked(chains.start, chains.allowed)
            values = self._leashed(values, start_NP, logits_NP)
        return values, -head.chosen_loss(logits_NP, chosen), head.entropy(logits_NP)

    def _leashed(self, values: Tensor, start_NP: Tensor, logits_NP: Tensor) -> Tensor:
        """Return the values; their gradient brings that of the divergence from the start's distributions with it."""
        head = self.agent.head
        divergences = head.divergence(start_NP, logits_NP)
        if divergences is None:  # an estimate by samples of the start, whose gradient is without bias
            drawn = self.agent.sampler.choose(head, start_NP)
            divergences = head.chosen_loss(logits_NP, drawn) - head.chosen_loss(start_NP, drawn)
        divergence = divergences.mean()
        self.divergences.append(float(divergence.detach()))
        return with_penalty(values, self.leash_weight * divergence)

    def _run(self, segment: Segment, state: Tree) -> Outputs:
        if self.replay and torch.is_grad_enabled():
            outputs: Outputs = checkpoint(self.unroller.run, segment, state, use_reentrant=False)
            return outputs
        return self.unroller.run(segment, state)

    def _value(self, features: Tensor) -> Tensor:
        value: Tensor = self.critic(features.float())
        return value[..., 0]


class _WithPenalty(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, penalty: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())


def with_penalty(values: Tensor, penalty: Tensor) -> Tensor:
    """Return the values, so that the gradient of any loss of them has the gradient of a penalty added to it.

    The losses are Stable-Baselines3's, which has no place for further terms.
    """
    penalised: Tensor = _WithPenalty.apply(values, penalty)  # type: ignore[no-untyped-call]
    return penalised
