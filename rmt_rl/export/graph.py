"""One step of an agent's acting as a function of tensors alone, with the ends of segments inside.

Dimensions: B batch elements (environments), D width of a token, P logits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rmt_rl.agent import Agent
from rmt_rl.errors import UsageError
from rmt_rl.export.interface import Interface, Values, as_learnt, flat, nested
from rmt_rl.nn.graphs import run_if, without_branches
from rmt_rl.recurrence import Tree, clone, select_lanes, take_tokens, tree_fill, tree_leaves, tree_map, where_lanes
from rmt_rl.tokens import Acting, put_late_first
from rmt_rl.trees import map_leaves

Tensors = tuple[Tensor, ...]

EXAMPLES = 3  # batch size of the example that is traced; 0 and 1 would be traced as special cases
LARGEST_BATCH = 1 << 20


class Renewal(nn.Module):
    """The caches of batch elements whose segments end or whose episodes start.

    A full segment gets its last action, writes its memory and is followed by the next one. At the start of an episode
    the result is discarded for a fresh cache.
    """

    def __init__(self, agent: Agent, fresh: Tree, interface: Interface) -> None:
        """`fresh` is the cache before an episode, of one batch element."""
        super().__init__()
        self.agent, self.like, self.interface = agent, fresh, interface
        self.count = len(tree_leaves(fresh))
        for index, leaf in enumerate(tree_leaves(fresh)):
            self.register_buffer(f"fresh_{index}", leaf)

    def forward(self, *arguments: Tensor) -> Tensors:
        """Return the cache's tensors, given `start_B`, the last action's parts and the cache's tensors."""
        agent = self.agent
        start_B, *others = arguments
        parts = len(others) - self.count
        last_actions, cache = others[:parts], tuple(others[parts:])
        closing = clone(tree_fill(self.like, cache))
        if agent.late:
            late_BTD = torch.stack(late_tokens(agent, self.interface, last_actions), 1)
            _, closing = agent.core.step(late_BTD, closing)
        memory = agent.core.end(closing)
        opened = tuple(tree_leaves(agent.core.begin(memory, start_B.shape[0], agent.capacity)))
        fresh = tuple(cast("Tensor", getattr(self, f"fresh_{index}")) for index in range(self.count))
        return clone(where_lanes(start_B, fresh, opened))


class SelectedRenewal(nn.Module):
    """The caches of a batch, in which those of the restarted batch elements alone are renewed."""

    def __init__(self, renewal: nn.Module, count: int) -> None:
        """`count` is the number of tensors of a cache."""
        super().__init__()
        self.renewal, self.count = renewal, count

    def forward(self, *arguments: Tensor) -> Tensors:
        """Return the cache's tensors, given `restarted_B`, `start_B`, the last action's parts and the cache's."""
        restarted_B, *others = arguments
        lanes = restarted_B.nonzero()[:, 0]
        torch._check(lanes.shape[0] >= 1)  # else the branch doesn't run
        renewed = self.renewal(*select_lanes(tuple(others), lanes))
        cache = tuple(others[-self.count :])
        return tree_map(lambda leaf, new: leaf.index_copy(0, lanes, new), cache, tuple(renewed))


class ActingGraph(nn.Module):
    """A step of acting: observation, return-to-go, episode start and state in; action, logits and next state out."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent
        core = agent.core
        self.fresh = clone(core.begin(core.initial_state(1), 1, agent.capacity))
        self.interface = Interface(agent, self.fresh)
        self.renewal: nn.Module | None = None
        if self.interface.cache:
            renewal = _traced(Renewal(agent, self.fresh, self.interface), self._renewal_example())
            self.renewal = SelectedRenewal(renewal, len(self.interface.cache))

    def forward(self, *arguments: Tensor) -> Tensors:
        """Return the outputs in the order of the interface."""
        agent, given = self.agent, self.interface.values(arguments)
        is_full_B = given.steps == agent.config.segment_length
        restarted_B = is_full_B | given.episode_start
        leaves = self._renewed(given, restarted_B)
        steps_B = given.steps.masked_fill(restarted_B, 0)
        logits_BP, cache = self._advance(given, steps_B, tree_fill(self.fresh, leaves))
        chosen = agent.head.choose(logits_BP, None)
        actions = flat(agent.head.tensors(chosen), self.interface.action)
        return (*actions, logits_BP, steps_B + 1, *clone(tuple(tree_leaves(cache))))

    def _renewed(self, given: Values, restarted_B: Tensor) -> Tensors:
        if self.renewal is None:
            return ()
        inputs = (restarted_B, given.episode_start, *self._last_action(given), *given.cache)
        count = len(given.cache)
        return run_if(restarted_B.any(), self.renewal, inputs, lambda *same: clone(same[-count:]))

    def _last_action(self, given: Values) -> list[Tensor]:
        return flat(given.action, self.interface.action) if self.interface.sees_action else []

    def _advance(self, given: Values, steps_B: Tensor, cache: Tree) -> tuple[Tensor, Tree]:
        """Feed [last action, return-to-go, observation]; return the logits (B, P) and the next cache."""
        agent = self.agent
        returns_B = steps_B if given.return_to_go is None else given.return_to_go / agent.spec.return_scale
        observation = map_leaves(as_learnt, given.observation)
        acting = Acting(observation, returns_B, None, cast("Any", steps_B))
        known = agent.encoding.acting(agent.known, acting)
        conditions = agent.encoding.acting(agent.conditions, acting)
        if not agent.late:
            y_BTD, cache = agent.core.step(torch.stack(known, 1), cache)
            y_BD = y_BTD[:, -1]
        else:
            late = late_tokens(agent, self.interface, self._last_action(given))
            x_BTD, lengths_B = put_late_first(late, known, steps_B > 0)
            y_BTD, cache = agent.core.step(x_BTD, cache, lengths_B)
            last_B1 = (lengths_B - 1)[:, None]
            y_BD = take_tokens(y_BTD, last_B1)[:, 0]
        logits_BP = agent.readout(y_BD, conditions)
        return logits_BP[:, : agent.head.size], cache

    def _renewal_example(self) -> list[Tensor]:
        _, *others = self.interface.state  # all but the steps
        return [torch.ones(EXAMPLES, dtype=torch.bool), *(port.zeros(EXAMPLES) for port in others)]


def late_tokens(agent: Agent, interface: Interface, parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the tokens (B, D) that are known once the agent has acted, from the parts of the last action."""
    action = nested([as_learnt(part) for part in parts], interface.action, interface.action_space)
    return agent.encoding.acting(agent.late, Acting(None, torch.empty(0), action))


def trace(module: nn.Module, example: Sequence[Tensor]) -> ExportedProgram:
    """Return the graph of a module's forward, in which the first dimension of all tensors is the batch.

    Raises:
        UsageError: PyTorch can't make a graph of it.
    """
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    shapes = tuple({0: batch} for _ in example)
    with torch.no_grad(), _plain_attention(), quiet():
        try:
            return torch.export.export(module, tuple(example), dynamic_shapes=(shapes,), strict=False)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise not_exportable(error) from error


def not_exportable(error: Exception) -> UsageError:
    """Return the error for an agent of which no graph can be made."""
    reason = shorten(str(error), 400)
    return UsageError(f"the agent can't be made a graph ({reason}); its parts must avoid branches on values of tensors")


def acting_program(agent: Agent) -> tuple[ExportedProgram, Interface]:
    """Return the graph of an agent's step, and its inputs and outputs.

    Raises:
        UsageError: PyTorch can't make a graph of it, e.g. since an encoder of the user's branches on values.
    """
    agent.eval()
    with torch.no_grad():
        graph = ActingGraph(agent)
    example = [port.zeros(EXAMPLES) for port in graph.interface.inputs]
    return trace(graph, example), graph.interface


def _traced(module: nn.Module, example: Sequence[Tensor]) -> nn.Module:
    """Return a module of the graph of another one. All tensors that it needs are parameters and buffers."""
    with without_branches():
        program = trace(module, example)
    traced = program.module(check_guards=False)
    buffers = dict(traced.named_buffers())
    for name, constant in program.constants.items():
        if isinstance(constant, Tensor) and name not in buffers:
            delattr(traced, name)
            traced.register_buffer(name, constant)
    return traced


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from its fused operator, of which ONNX knows nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' remarks, which no user can act on, from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
