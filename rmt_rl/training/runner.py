"""Run an agent on segments, in the number format of the run, with or without gradient."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import shorten
from typing import cast

import torch
from torch import Tensor

from rmt_rl.agent import Agent
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree, detach, where_lanes
from rmt_rl.training.ageing import Segments
from rmt_rl.training.measures import Counts
from rmt_rl.training.parallel import FabricProcesses

Forward = Callable[[Segment, Tree], tuple[Tensor, Tree]]
"""Takes a segment and a state; returns the logits and the next state."""


class SegmentRunner:
    """Runs an agent on segments.

    Args:
        model: the agent.
        processes: the run's processes, which know the number format.
        hindsight: weight of the auxiliary loss on hindsight classes.
        compiles: compile the agent's forward pass when a segment is run first.

    Attributes:
        call: the agent's forward pass, compiled or not.
    """

    def __init__(self, model: Agent, processes: FabricProcesses, hindsight: float, compiles: bool = False) -> None:
        self.model = model
        self.call: Forward = torch.compile(model) if compiles else model
        self.processes = processes
        self.hindsight = hindsight

    def forward(self, segment: Segment, state: Tree) -> tuple[Tensor, Tree]:
        """Run a segment in the run's number format; return the logits and the next state."""
        # The context is left after each segment, since it keeps weights that it cast without gradient.
        with self.processes.fabric.autocast():
            return self.call(segment, state)

    def first_segment(self, batch: Batch) -> Tensor:
        """Run the first segment of a batch from fresh states, not compiled; return the logits."""
        segment = batch.first(1).to(self.processes.device).segments[0]
        state = self.model.initial_state(len(batch.fresh))
        with self.processes.fabric.autocast():
            logits, _ = self.model(segment, state)
        return cast("Tensor", logits)

    def loss(self, batch: Batch, counts: Counts, index: int, state: Tree) -> tuple[Tensor, Tree]:
        """Return a segment's share of the batch's mean loss per real step, and the next state."""
        segment = batch.segments[index]
        logits, state = self.forward(segment, state)
        loss, right = self.model.losses(logits, segment, self.hindsight)
        if torch.is_grad_enabled():  # replay runs each segment a first time without gradients
            counts.add(segment, right)
        return loss.sum() / batch.steps, state

    @torch.no_grad()
    def run(self, state: Tree, segments: Segments) -> Tree:
        """Return the state after these segments, which no gradient crosses."""
        state = detach(state)
        for segment in segments:
            _, state = self.forward(segment, state)
        return state

    def burn_in(self, state: Tree, segments: Segments) -> Tree:
        """Return the state after these segments; sequences without a step in a segment keep their state."""
        for segment in segments:
            following = self.run(state, (segment,))
            has_steps = segment.lengths > 0
            state = where_lanes(has_steps, following, state)
        return state


def check_compiler(device: torch.device) -> None:
    """Raise a UsageError if PyTorch can't compile for this device."""
    try:
        torch.compile(_doubled)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds, by what is missing
        reason = shorten(str(error), 200)
        raise UsageError(
            f"compile=True: PyTorch can't compile for {device} ({reason}); install a C++ compiler "
            "(on CUDA Triton, too), or leave --compile out"
        ) from error


def _doubled(value: Tensor) -> Tensor:
    return 2 * value
