"""Implicit Q-learning from segments: targets that reach over the borders of segments and of updates.

The value after a step is that of the next step, wherever it stands: in the same segment, in the next one, or behind
what the update reads. It is computed before each update, without gradient, by running the segments with one step more
in each sequence. At an episode's end this step holds its last observation, so that a truncated episode is bootstrapped.
A terminated one isn't.

Dimensions: B batch elements, K steps of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt_rl.data.segment import Batch, Segment
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree, detach
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint
from rmt_rl.runs.options import OfflineRun
from rmt_rl.training.ageing import Segments
from rmt_rl.training.measures import Counts, exact
from rmt_rl.training.runner import SegmentRunner
from rmt_rl.training.segments import SegmentLearner
from rmt_rl.trees import map_leaves


class Losses(Protocol):
    """The losses (B, K) of an agent, zero at padding."""

    value: Tensor
    action_value: Tensor
    actor: Tensor
    accuracy: Tensor


class BootstrappingAgent(Protocol):
    """The methods that an agent needs for this learner, besides those of all agents."""

    def values(self, outputs: Tensor) -> Tensor:
        """Return the values (B, K) of states, from what `forward` returned."""

    def loss_parts(self, outputs: Tensor, segment: Segment, hindsight: float = 0.0) -> Losses:
        """Return the losses."""

    def follow(self) -> None:
        """Let the target network follow, after an update."""


class IQLLearner(SegmentLearner):
    """Trains an agent by implicit Q-learning, one batch an update; see `SegmentLearner`.

    Raises:
        UsageError: besides what `SegmentLearner` raises: the run would divide the weights over processes.
    """

    def __init__(self, config: OfflineRun, saved: Checkpoint[AgentHeader] | None = None) -> None:
        if config.training.strategy == "fsdp":
            raise UsageError(
                f"strategy='fsdp': agent {config.agent!r} can't be divided, since its losses need weights outside of "
                "the forward pass; choose --strategy ddp"
            )
        super().__init__(config, saved)
        self.bootstrapping = cast("BootstrappingAgent", self.model)
        self.measuring = MeasuringRunner(self.bootstrapping, self.runner)
        self.runner = self.measuring

    def advance(self) -> dict[str, float | Tensor]:
        self.measuring.restart()
        measured = super().advance()
        self.bootstrapping.follow()
        value, action_value, actor = self.processes.sum(self.measuring.sums).unbind()
        return measured | {
            "train/value_loss": exact(value),
            "train/action_value_loss": exact(action_value),
            "train/actor_loss": exact(actor),
        }

    def learn_from_kept(self, fillers: Segments) -> dict[str, float | Tensor]:
        of_new_batch = self.measuring.sums.clone()
        measured = super().learn_from_kept(fillers)
        self.measuring.sums = of_new_batch
        return measured

    def prepared(self, batch: Batch, state: Tree, first: int = 0) -> Batch:
        """Return the batch with the value after each step, for the segments from `first` on.

        Args:
            batch: the segments.
            state: the state before segment `first`.
            first: the first segment.
        """
        batch = super().prepared(batch, state, first)
        segments = batch.segments[first:]
        steps_of_full = self.model.config.segment_length
        values = self._values(one_step_more(segments, steps_of_full), detach(state))
        following = [of_segment[:, :1] for of_segment in values[1:]]
        prepared = []
        for index, segment in enumerate(segments):
            steps = segment.returns_to_go.shape[1]
            next_values = values[index][:, 1:]
            if next_values.shape[1] < steps:
                next_values = torch.cat((next_values, following[index]), 1)
            prepared.append(replace(segment, next_values=next_values))
        return replace(batch, segments=(*batch.segments[:first], *prepared))

    @torch.no_grad()
    def _values(self, segments: Segments, state: Tree) -> list[Tensor]:
        """Return the values (B, K) of all steps of each segment, without dropout."""
        values = []
        self.model.eval()
        for segment in segments:
            with self.processes.fabric.autocast():
                outputs, state = self.model(segment, state)
            values.append(self.bootstrapping.values(outputs))
        self.model.train()
        return values


class MeasuringRunner(SegmentRunner):
    """Runs an agent on segments, and sums up its losses.

    Attributes:
        sums: losses since `restart`, per real step of a batch: of the value, of action values and of the actor, (3,).
    """

    def __init__(self, agent: BootstrappingAgent, runner: SegmentRunner) -> None:
        super().__init__(runner.model, runner.processes, runner.hindsight)
        self.call = runner.call
        self.agent = agent
        self.restart()

    def restart(self) -> None:
        """Set the sums to zero."""
        self.sums = torch.zeros(3, device=self.processes.device)

    def loss(self, batch: Batch, counts: Counts, index: int, state: Tree) -> tuple[Tensor, Tree]:
        segment = batch.segments[index]
        outputs, state = self.forward(segment, state)
        losses = self.agent.loss_parts(outputs, segment, self.hindsight)
        parts = [losses.value.sum(), losses.action_value.sum(), losses.actor.sum()]
        means = torch.stack(parts) / batch.steps
        if torch.is_grad_enabled():  # replay runs each segment a first time without gradients
            counts.add(segment, losses.accuracy)
            self.sums += means.detach()
        return means.sum(), state


def one_step_more(segments: Sequence[Segment], steps_of_full: int) -> Segments:
    """Return the segments with one step more at the end of each sequence, which holds the observation behind it.

    A sequence that fills its last segment has this step in a segment more. The added step's action is padding.

    Args:
        segments: consecutive segments.
        steps_of_full: steps of a full segment.

    Raises:
        UsageError: the segments don't hold the observations behind them.
    """
    longer = []
    full_before: Tensor | None = None  # (B,) sequences that ended with the segment before, which they filled
    behind: Any = None  # (B, ...) the observations behind these
    nothing = torch.zeros_like(segments[-1].lengths)
    later = [segment.lengths for segment in segments[1:]]
    for segment, next_lengths in zip(segments, [*later, nothing], strict=True):
        if segment.following is None:
            raise UsageError("the feed's segments lack `following`; make them by rmt_rl.data.segment.cut")
        ends = (segment.lengths > 0) & (next_lengths == 0)
        fills = segment.lengths == steps_of_full
        steps = segment.returns_to_go.shape[1]
        extended = _padded(segment, min(steps + 1, steps_of_full))
        extended = _with_step(extended, ends & ~fills, segment.following)
        if full_before is not None:
            extended = _with_step(extended, full_before, behind)
        longer.append(extended)
        full_before, behind = ends & fills, segment.following
    assert full_before is not None
    if segments[-1].returns_to_go.shape[1] == steps_of_full:
        empty = _padded(replace(_first_step(segments[-1]), lengths=nothing), 1)
        longer.append(_with_step(empty, full_before, behind))
    return tuple(longer)


def _first_step(segment: Segment) -> Segment:
    """Return the first step alone of a segment."""

    def first(leaf: Tensor) -> Tensor:
        return leaf[:, :1]

    return _with_columns(segment, first)


def _padded(segment: Segment, steps: int) -> Segment:
    """Return the segment with padding up to so many steps."""
    more = steps - segment.returns_to_go.shape[1]

    def padded(leaf: Tensor) -> Tensor:
        behind = (0, 0) * (leaf.ndim - 2) + (0, more)
        return F.pad(leaf, behind) if more else leaf

    return _with_columns(segment, padded)


def _with_columns(segment: Segment, function: Any) -> Segment:
    """Return the segment with the function's value of all that it holds of steps; labels of steps are left out."""
    return replace(
        segment,
        observations=map_leaves(function, segment.observations),
        actions=map_leaves(function, segment.actions),
        returns_to_go=function(segment.returns_to_go),
        rewards=function(segment.rewards),
        terminations=function(segment.terminations),
        truncations=function(segment.truncations),
        full=False,
        hindsight=None,
        decisive=None,
        following=None,
        next_values=None,
    )


def _with_step(segment: Segment, chosen_B: Tensor, observations: Any) -> Segment:
    """Return the segment with one real step more in the chosen sequences, behind their last one."""
    places = torch.arange(segment.returns_to_go.shape[1], device=chosen_B.device)
    here_BK = chosen_B[:, None] & (places == segment.lengths[:, None])

    def put(leaf: Tensor, new: Tensor) -> Tensor:
        here = here_BK.view(*here_BK.shape, *[1] * (leaf.ndim - 2))
        return torch.where(here, new[:, None], leaf)

    changed = map_leaves(put, segment.observations, observations)
    return replace(segment, observations=changed, lengths=segment.lengths + chosen_B)
