"""Runs an agent over segments that were played: its outputs, its states before segments, and its state of acting.

Dimensions: B environments (lanes), C segments in a batch, K steps of a segment, D width, P logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rmt_rl.agent import ActingState, Agent
from rmt_rl.data.segment import Segment
from rmt_rl.recurrence import Tree, select_lanes, tree_map, where_lanes
from rmt_rl.training.ppo.played import Part, Place, Played, Stretch


class States(NamedTuple):
    """States before segments, one a row.

    Attributes:
        rows: the states.
        places: the row of a part's segment, by the indices of both.
    """

    rows: Tree
    places: dict[Place, int]

    def select(self, chosen: Sequence[Place], device: torch.device) -> Tree:
        """Return the states before these segments."""
        rows = [self.places[place] for place in chosen]
        return select_lanes(self.rows, torch.tensor(rows, device=device))


class Outputs(NamedTuple):
    """The outputs for a batch of segments.

    Attributes:
        features: the core's outputs (C, K, D) at observations.
        logits: parameters (C, K, P) of the actions' distributions.
        state: the next state.
    """

    features: Tensor
    logits: Tensor
    state: Tree


class Unroller:
    """Runs an agent over segments.

    Args:
        agent: the agent.
        precision: the number format of the core, `bf16-mixed` or `32-true`.
    """

    def __init__(self, agent: Agent, precision: str) -> None:
        self.agent = agent
        self.precision = precision

    def autocast(self) -> torch.autocast:
        """Return a context in the number format."""
        return torch.autocast(self.agent.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def run(self, segment: Segment, state: Tree) -> Outputs:
        """Run a segment (C, K, ...)."""
        agent = self.agent
        with self.autocast():
            y_BKD, state = agent.features(segment, state)
            logits_BKP = agent.readout(y_BKD, agent.conditions_of(segment))
        return Outputs(y_BKD, logits_BKP[..., : agent.head.size], state)

    @torch.no_grad()
    def states(self, played: Played, parts: Sequence[Part], memory: Tree) -> States:
        """Return the core's state before every segment of the parts, computed with today's weights.

        Args:
            played: the steps.
            parts: segments of episodes.
            memory: the states (B, ...) before the first segments of those parts that aren't fresh, by lane.
        """
        device = self.agent.device
        lanes = torch.tensor([part.segments[0].lane for part in parts], device=device)
        fresh = torch.tensor([part.fresh for part in parts], device=device)
        state = where_lanes(fresh, self.agent.initial_state(len(parts)), select_lanes(memory, lanes))
        rows: dict[Place, int] = {}
        found = []
        active = list(range(len(parts)))
        place = 0
        while True:
            for part in active:
                rows[part, place] = len(rows)
            found.append(state)
            going_on = [row for row, part in enumerate(active) if len(parts[part].segments) > place + 1]
            if not going_on:
                return States(tree_map(lambda *leaves: torch.cat(leaves), *found), rows)
            active = [active[row] for row in going_on]
            state = select_lanes(state, torch.tensor(going_on, device=device))
            segment, _ = played.segment([parts[part].segments[place] for part in active], device)
            state = self.run(segment, state).state
            place += 1

    @torch.no_grad()
    def opened(self, played: Played, stretches: Sequence[Stretch], state: Tree) -> ActingState:
        """Return the state of acting behind the steps of open segments, one for each lane."""
        segment, _ = played.segment(stretches, self.agent.device)
        with self.autocast():
            return self.agent.opened(state, segment)
