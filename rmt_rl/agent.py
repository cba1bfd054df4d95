"""Agents: tokens of a trajectory in, a recurrent core, actions out; trained on segments, acting step by step.

Dimensions: B batch elements (environments when acting), K steps of a segment, L = K x tokens per step, T tokens of a
step call, D width, P logits: parameters of the action's distribution, then hindsight classes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl.acting_agent import ActingAgent
from rmt_rl.acting_agent import ActingState as ActingState
from rmt_rl.agent_options import AgentConfig as AgentConfig
from rmt_rl.base_agent import AgentSpec as AgentSpec
from rmt_rl.base_agent import BaseAgent as BaseAgent
from rmt_rl.data.segment import Segment
from rmt_rl.nn.heads import head
from rmt_rl.nn.sampling import Sampler
from rmt_rl.recurrence import SegmentRecurrent
from rmt_rl.tokens import Encoding, TokenName, known_and_late, make_encoders, make_scales, scales_of


class Agent(ActingAgent):
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
        y_BLD, state = self.core(self.embedded(segment), state, lengths_B)
        return y_BLD[:, self.at_observation :: per_step], state

    def embedded(self, segment: Segment) -> Tensor:
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


def hindsight_loss(logits_BKC: Tensor, classes_BK: Tensor) -> Tensor:
    """Return the negative log-likelihood (B, K) of hindsight classes, zero at steps without a class (-1)."""
    return F.cross_entropy(logits_BKC.mT, classes_BK, ignore_index=-1, reduction="none")
