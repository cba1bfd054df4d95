"""The leash: an agent stays near to what it was when it began to learn by acting (VPT, arXiv 2206.11795).

The penalty is KL(start || now), the direction of VPT and of kickstarting (arXiv 1803.03835). It keeps likely whatever
the start does, and its gradient is that of cloning the start. Where it has no closed form, samples of the start give an
estimate without bias. KL(now || start) would need samples of the agent under training.

Dimensions: T steps of B environments (lanes), P logits.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmt_rl.agent import Agent
from rmt_rl.training.ppo.played import Part, Place, Played
from rmt_rl.training.ppo.unrolling import Unroller


class LeashOptions(NamedTuple):
    """The course of the weight: constant during the warm-up, then linear to 0.

    Attributes:
        weight: of the divergence.
        warmup: steps of the warm-up.
        decay: steps from the warm-up's end to a weight of 0.
    """

    weight: float
    warmup: int
    decay: int

    def at(self, step: int) -> float:
        """Return the weight after so many environment steps."""
        passed = max(0, step - self.warmup) / self.decay
        return self.weight * max(0.0, 1 - passed)


class Leash:
    """A frozen copy of an agent, which sees what is played with states of its own.

    Args:
        agent: the agent at its start.
        lanes: B.
        precision: the number format of its core.
        options: the course of the weight.
    """

    def __init__(self, agent: Agent, lanes: int, precision: str, options: LeashOptions) -> None:
        self.agent = copy.deepcopy(agent).eval().requires_grad_(False)
        self.options = options
        self.unroller = Unroller(self.agent, precision)
        self.memory = self.agent.initial_state(lanes)  # before the first step kept of each lane

    def logits(self, played: Played, parts: Sequence[Part], first: int, kept: Sequence[Place]) -> NDArray[Any]:
        """Return the start's logits (T - first, B, P) of the steps from `first` on.

        Args:
            played: the steps.
            parts: their segments.
            first: the first of these steps.
            kept: the segment of each lane from which the next steps are kept.
        """
        device = self.agent.device
        states = self.unroller.states(played, parts, self.memory)
        wanted = [
            (index, place)
            for index, part in enumerate(parts)
            for place, segment in enumerate(part.segments)
            if segment.stop > first
        ]
        stretches = [parts[index].segments[place] for index, place in wanted]
        segment, places = played.segment(stretches, device)
        outputs = self.unroller.run(segment, states.select(wanted, device))
        real = places.since(first).real
        steps, lanes = played.starts.shape
        logits = np.zeros((steps - first, lanes, self.agent.head.size), np.float32)
        logits[places.steps[real] - first, places.lanes[real]] = outputs.logits.float().cpu().numpy()[real]
        self.memory = states.select(kept, device)
        return logits
