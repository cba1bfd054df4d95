"""IQL, implicit Q-learning (arXiv 2110.06169) with the memory of any agent: learns from rewards, not only actions."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rmt_rl.agent import Agent, AgentConfig, AgentSpec, BaseAgent, hindsight_loss
from rmt_rl.config import validated
from rmt_rl.data.segment import Segment
from rmt_rl.errors import UsageError
from rmt_rl.nn.critic import Critic
from rmt_rl.recurrence import SegmentRecurrent
from rmt_rl.registry import agent_class

LARGEST_WEIGHT = 100.0
"""Weights of actions are cut off here, as in the paper's code."""


class IQLConfig(AgentConfig):
    """Options of IQL."""

    memory: str = Field("rate", description="agent whose core is used, with its default options; see rmt-rl list")
    hidden: int = Field(256, ge=1, description="width of the hidden layer of value and action values")
    expectile: float = Field(
        0.7, gt=0, lt=1, description="expectile of action values that is a state's value; 0.5: their mean"
    )
    temperature: float = Field(
        3.0, ge=0, description="factor of advantages in the weights of actions; 0: behaviour cloning"
    )
    discount: float = Field(0.99, ge=0, lt=1, description="discount of the rewards")
    target_rate: float = Field(
        0.005, gt=0, le=1, description="share by which the target network follows the action values in an update"
    )

    @model_validator(mode="after")
    def _memory_fits(self) -> Self:
        self.memory_options()
        return self

    def memory_class(self) -> type[Agent]:
        """Return the class of the agent whose core is used.

        Raises:
            UsageError: there is no such agent, or it has no core of its own.
        """
        cls = agent_class(self.memory)
        if not issubclass(cls, Agent) or issubclass(cls, IQL):
            raise UsageError(f"memory={self.memory!r} has no core of its own: choose an agent with one, e.g. rate")
        return cls

    def memory_options(self) -> AgentConfig:
        """Return the options of this agent: its defaults, at the width and segment length of IQL.

        Raises:
            UsageError: see `memory_class`; or its defaults don't fit this width or segment length.
        """
        sizes = {"segment_length": self.segment_length, "width": self.width}
        return validated(self.memory_class().Config, sizes)


class Losses(NamedTuple):
    """The losses (B, K) of IQL, and the accuracy (B, K) of its actions; zero at padding."""

    value: Tensor
    action_value: Tensor
    actor: Tensor
    accuracy: Tensor


class IQL(Agent):
    """Implicit Q-learning on the outputs of a recurrent core that sees observations and last actions.

    Three losses train the core together, where the paper has three networks: the state value is an expectile of the
    target network's action values; the action values are those of one step and the next state's value; the actor's
    negative log-likelihood is weighted by the exponential of the advantage. The target network copies the heads of the
    action values, not the core. Rewards are divided by the largest return of the data, so that one temperature suits
    all of them. It isn't conditioned on returns.
    """

    Config = IQLConfig
    tokens = ("observation", "action")
    learner = "rmt_rl.training.iql:IQLLearner"

    def __init__(self, config: IQLConfig, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.to_action = WithFeatures(config.width, self.to_action.out_features)
        self.critic = Critic(spec.action_space, config.width, config.hidden)

    def build_core(self, config: IQLConfig) -> SegmentRecurrent[Any, Any]:
        """Return the core that the agent `memory` builds for tokens as IQL has them."""
        cls = config.memory_class()
        options = config.memory_options()
        with_own_tokens: type[Agent] = type(cls.__name__, (cls,), {"tokens": self.tokens})
        builder = object.__new__(with_own_tokens)
        BaseAgent.__init__(builder, options, self.spec)  # without encoders and head, which IQL has itself
        core: SegmentRecurrent[Any, Any] = builder.build_core(options)
        return core

    def values(self, outputs: Tensor) -> Tensor:
        """Return the values (B, K) of states, from what `forward` returned."""
        features = outputs[..., self.to_action.out_features :]
        return self.critic.value(self._exact(features))

    def follow(self) -> None:
        """Let the target network follow the action values, after an update."""
        self.critic.follow(self.config.target_rate)

    def losses(self, logits_BKP: Tensor, segment: Segment, hindsight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses, and the accuracy of the actions, (B, K) each, zero at padding."""
        parts = self.loss_parts(logits_BKP, segment, hindsight)
        return parts.value + parts.action_value + parts.actor, parts.accuracy

    def loss_parts(self, outputs: Tensor, segment: Segment, hindsight: float = 0.0) -> Losses:
        """Return the losses.

        Without the segment's `next_values` action values learn from steps whose next step is in the segment, too, or
        that end the episode.
        """
        config = self.config
        logits, features = outputs.split([self.to_action.out_features, self.config.width], -1)
        y = self._exact(features)
        action = self.scales["action"](segment.actions)
        value = self.critic.value(y)
        advantage = self.critic.target_value(y, action) - value
        share = torch.where(advantage < 0, 1 - config.expectile, config.expectile)
        value_loss = share * advantage.square()
        goal, known = self._goal(value.detach(), segment)
        errors = [(each - goal).square() for each in self.critic.action_values(y, action)]
        action_loss = torch.stack(errors).sum(0).masked_fill(~known, 0)
        nll, accuracy = super().losses(logits, segment)
        weight = (config.temperature * advantage.detach()).exp().clamp(max=LARGEST_WEIGHT)
        actor_loss = weight * nll
        if hindsight and segment.hindsight is not None:
            classes = logits[..., self.head.size :].float()
            actor_loss = actor_loss + hindsight * hindsight_loss(classes, segment.hindsight)
        padding = ~segment.mask
        return Losses(
            value_loss.masked_fill(padding, 0),
            action_loss.masked_fill(padding, 0),
            actor_loss.masked_fill(padding, 0),
            accuracy,
        )

    def _goal(self, value: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Return what action values learn, (B, K), and where it is known, bool (B, K)."""
        goes_on = ~segment.terminations
        next_value = segment.next_values
        known = torch.ones_like(goes_on)
        if next_value is None:
            next_value = torch.cat((value[:, 1:], torch.zeros_like(value[:, :1])), 1)
            has_next = torch.roll(segment.mask, -1, 1)
            has_next[:, -1] = False
            known = has_next | segment.terminations
        reward = segment.rewards / self.spec.return_scale
        return reward + self.config.discount * goes_on * next_value, known

    def _exact(self, features: Tensor) -> Tensor:
        """Return features in the number format of the weights, which autocast may have left."""
        return features.to(self.to_action.weight.dtype)


class WithFeatures(nn.Linear):
    """A linear map whose inputs stand behind its outputs, so that losses have both."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., D) to (..., P + D)."""
        return torch.cat((super().forward(input), input), -1)


AGENT = IQL
