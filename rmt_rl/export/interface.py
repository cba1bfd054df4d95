"""Inputs and outputs of an agent's graph: their names, shapes and dtypes, in the order of the graph's arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor

from rmt_rl.agent import Agent
from rmt_rl.nn.heads.base import graph_dtype
from rmt_rl.recurrence import Tree, tree_leaves
from rmt_rl.trees import Place, leaves, map_space, place_name


@dataclass(frozen=True)
class Port:
    """One tensor that goes into a graph or comes out of it.

    Attributes:
        name: its name in the graph.
        shape: its shape, without the batch dimension in front.
        dtype: its dtype.
        place: keys and indices of the part of the observation or action that it is; None for other tensors.
        space_dtype: the dtype of this part in its space.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    place: Place | None = None
    space_dtype: str | None = None

    @property
    def numpy_dtype(self) -> str:
        """The name of the dtype of arrays for this port."""
        return str(self.dtype).removeprefix("torch.")

    def renamed(self, name: str) -> Port:
        """Return the same port with another name."""
        return replace(self, name=name)

    def zeros(self, batch_size: int) -> Tensor:
        """Return a tensor of zeros for this port."""
        return torch.zeros(batch_size, *self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class Values:
    """The arguments of a graph, taken apart."""

    observation: Any
    return_to_go: Tensor | None
    episode_start: Tensor
    steps: Tensor
    action: Any  # of the last step; None if the agent doesn't see it
    cache: tuple[Tensor, ...]


class Interface:
    """The ports of an agent's graph.

    Attributes:
        observation: parts of the observation.
        return_to_go: the return still to be reached; None if the agent isn't conditioned on returns.
        episode_start: True for batch elements whose observation is the first of an episode.
        steps: place of the step in its segment.
        action: parts of the action.
        sees_action: the agent sees the last action, so it is an input too.
        cache: what the core keeps of the open segment.
        logits: parameters of the action's distribution.
    """

    def __init__(self, agent: Agent, cache: Tree) -> None:
        """Name the ports. `cache` is the core's for a batch of any size."""
        spec = agent.spec
        self.observation_space, self.action_space = spec.observation_space, spec.action_space
        self.observation = list(_ports("observation", spec.observation_space))
        is_conditioned = "return_to_go" in (*agent.tokens, *agent.conditions)
        self.return_to_go = Port("return_to_go", (), torch.float32) if is_conditioned else None
        self.episode_start = Port("episode_start", (), torch.bool)
        self.steps = Port("state.steps", (), torch.int64)
        self.action = list(_ports("action", spec.action_space))
        self.sees_action = "action" in agent.late
        self.cache = list(state_ports(cache, "state.core"))
        self.logits = Port("logits", (agent.head.size,), torch.float32)

    @property
    def state(self) -> list[Port]:
        """The parts of the state, as inputs."""
        last_action = [port.renamed(f"state.{port.name}") for port in self.action] if self.sees_action else []
        return [self.steps, *last_action, *self.cache]

    @property
    def next_state(self) -> list[Port]:
        """The parts of the state, as outputs: the last action is the one that comes out."""
        last_action = self.action if self.sees_action else []
        kept = [port.renamed(f"next_{port.name}") for port in (self.steps, *self.cache)]
        return [kept[0], *last_action, *kept[1:]]

    @property
    def inputs(self) -> list[Port]:
        """All inputs in order."""
        returns = [self.return_to_go] if self.return_to_go else []
        return [*self.observation, *returns, self.episode_start, *self.state]

    @property
    def outputs(self) -> list[Port]:
        """All outputs in order."""
        actions = {port.name for port in self.action}
        kept = [port for port in self.next_state if port.name not in actions]
        return [*self.action, self.logits, *kept]

    def values(self, arguments: Sequence[Tensor]) -> Values:
        """Take the arguments of a graph apart."""
        remaining = iter(arguments)

        def take(ports: Sequence[Port]) -> list[Tensor]:
            return [next(remaining) for _ in ports]

        observation = nested(take(self.observation), self.observation, self.observation_space)
        returns = next(remaining) if self.return_to_go else None
        start = next(remaining)
        steps = next(remaining)
        action = nested(take(self.action), self.action, self.action_space) if self.sees_action else None
        return Values(observation, returns, start, steps, action, tuple(remaining))


def nested(parts: Sequence[Any], ports: Sequence[Port], space: Space[Any]) -> Any:
    """Return the value of a space whose parts, in the order of the ports, are given."""
    by_place = {port.place: part for port, part in zip(ports, parts, strict=True)}
    return map_space(lambda place, _: by_place[place], space)


def flat(value: Any, ports: Sequence[Port]) -> list[Any]:
    """Return the parts of a value of a space in the order of the ports."""
    parts: dict[Place | None, Any] = dict(leaves(value))
    return [parts[port.place] for port in ports]


def _ports(name: str, space: Space[Any]) -> Iterator[Port]:
    for place, leaf in leaves(space):
        yield Port(place_name(name, place), leaf.shape or (), graph_dtype(leaf.dtype), place, str(leaf.dtype))


def state_ports(state: Tree, name: str) -> Iterator[Port]:
    """Yield the ports of a state's or cache's tensors, in order."""
    for each, leaf in zip(_names(state, name), tree_leaves(state), strict=True):
        yield Port(each, tuple(leaf.shape[1:]), leaf.dtype)


def _names(tree: Tree, name: str) -> Iterator[str]:
    """Yield a name for every tensor of a tree, e.g. `state.core.inner.0.keys`."""
    if isinstance(tree, Tensor):
        yield name
        return
    fields: Sequence[str] = getattr(tree, "_fields", None) or [str(index) for index in range(len(tree))]
    for field, branch in zip(fields, tree, strict=True):
        yield from _names(branch, f"{name}.{_without_legend(field)}")


def _without_legend(field: str) -> str:
    """Return a field's name without the letters that show its shape: `keys` for `keys_BCHE`."""
    base, _, legend = field.rpartition("_")
    return base if base and legend.isupper() else field


def as_learnt(tensor: Tensor) -> Tensor:
    """Return a part of an observation or action in the dtype of a segment's: float32, uint8, bool or int64."""
    if tensor.dtype in (torch.uint8, torch.bool):
        return tensor
    return tensor.to(torch.float32 if tensor.dtype.is_floating_point else torch.int64)
