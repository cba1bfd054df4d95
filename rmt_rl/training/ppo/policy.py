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
from rmt_rl.recurrence import Tree, select_lanes, tree_map, where_lanes
from rmt_rl.tokens import to_tensors
from rmt_rl.training.ppo.played import Part, Places, Played, Stretch
from rmt_rl.trees import map_leaves

Array = NDArray[Any]


class Choice(NamedTuple):
    """The actions of a step, with their probabilities.

    Attributes:
        actions: (B, ...), values of the action space.
        values: (B,) of the states before.
        log_probabilities: (B,) of the actions.
        state: of acting, for the next step.
    """

    actions: Any
    values: Tensor
    log_probabilities: Tensor
    state: ActingState


class Chains(NamedTuple):
    """Sequences of consecutive segments to learn from; the gradient crosses the borders inside a sequence.

    Attributes:
        segments: the first segment of each sequence (C, K, ...), the second one, and so on, with their places.
        state: the core's state before the first ones.
    """

    segments: Sequence[tuple[Segment, Places]]
    state: Tree


class SegmentPolicy(nn.Module):
    """An agent and a critic that reads the outputs of the agent's core.

    Args:
        agent: it is trained in place.
        learning_rate: of Adam.
        replay: hold the activations of one segment only, and compute those of others anew.
        precision: the number format of the core, `bf16-mixed` or `32-true`.
    """

    def __init__(self, agent: Agent, learning_rate: float, replay: bool = False, precision: str = "32-true") -> None:
        super().__init__()
        width = agent.config.width
        self.agent = agent
        self.critic = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)).to(agent.device)
        self.replay = replay
        self.precision = precision
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
    def choose(self, observation: Any, returns: Array, state: ActingState | None, starts: NDArray[np.bool_]) -> Choice:
        """Draw actions for the next observations (B, ...), seen with returns-to-go (B,)."""
        agent = self.agent
        with self._autocast():
            attended = agent.attend(self._seen(observation, returns), state, starts)
        logits = attended.logits.float()
        chosen = agent.sampler.choose(agent.head, logits)
        actions = agent.head.values(chosen.cpu().numpy())
        log_probabilities = -agent.head.loss(logits, to_tensors(actions, agent.device))
        return Choice(actions, self._value(attended.features), log_probabilities, attended.followed_by(actions))

    @torch.no_grad()
    def values(self, observation: Any, returns: Array, state: ActingState, lanes: NDArray[np.int64]) -> Tensor:
        """Return the values (b,) of observations (b, ...) that come next in some lanes, whose state stays as it is."""
        indices = torch.from_numpy(lanes).to(self.agent.device)
        actions = map_leaves(lambda leaf: leaf[lanes], state.actions)
        own = ActingState(select_lanes(state.cache, indices), state.steps[lanes], actions)
        with self._autocast():
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
            chains: the segments, which hold their actions.
            actions: unused; Stable-Baselines3 passes what the buffer gave it.
        """
        head = self.agent.head
        state = chains.state
        values, log_probabilities, entropies = [], [], []
        for segment, places in chains.segments:
            y_BKD, logits_BKP, state = self._run(segment, state)
            real = torch.from_numpy(places.real).to(logits_BKP.device)
            logits = logits_BKP.float()[real]
            taken = map_leaves(lambda leaf, real=real: leaf[real], segment.actions)
            values.append(self._value(y_BKD[real]))
            log_probabilities.append(-head.loss(logits, taken))
            entropies.append(head.entropy(logits))
        known = [entropy for entropy in entropies if entropy is not None]
        entropy = torch.cat(known) if len(known) == len(entropies) else None
        return torch.cat(values), torch.cat(log_probabilities), entropy

    def _run(self, segment: Segment, state: Tree) -> tuple[Tensor, Tensor, Tree]:
        if self.replay and torch.is_grad_enabled():
            outputs: tuple[Tensor, Tensor, Tree] = checkpoint(self._outputs, segment, state, use_reentrant=False)
            return outputs
        return self._outputs(segment, state)

    def _outputs(self, segment: Segment, state: Tree) -> tuple[Tensor, Tensor, Tree]:
        """Return the core's outputs (C, K, D), the logits (C, K, P) and the next state."""
        agent = self.agent
        with self._autocast():
            y_BKD, state = agent.features(segment, state)
            logits_BKP = agent.readout(y_BKD, agent.conditions_of(segment))
        return y_BKD, logits_BKP, state

    def _value(self, features: Tensor) -> Tensor:
        value: Tensor = self.critic(features.float())
        return value[..., 0]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.agent.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    # States

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
        rows: dict[tuple[int, int], int] = {}
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
            _, _, state = self._outputs(segment, state)
            place += 1

    @torch.no_grad()
    def opened(self, played: Played, stretches: Sequence[Stretch], state: Tree) -> ActingState:
        """Return the state of acting behind the steps of open segments, one for each lane."""
        segment, _ = played.segment(stretches, self.agent.device)
        with self._autocast():
            return self.agent.opened(state, segment)


class States(NamedTuple):
    """States before segments, one a row.

    Attributes:
        rows: the states.
        places: the row of a part's segment, by the indices of both.
    """

    rows: Tree
    places: dict[tuple[int, int], int]

    def select(self, chosen: Sequence[tuple[int, int]], device: torch.device) -> Tree:
        """Return the states before these segments."""
        rows = [self.places[place] for place in chosen]
        return select_lanes(self.rows, torch.tensor(rows, device=device))
