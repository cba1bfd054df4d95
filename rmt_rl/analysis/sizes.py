"""The size of an agent: its parameters, and the state that each batch element carries from segment to segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.recurrence import tree_leaves
from rmt_rl.registry import agent_class

SPEC = AgentSpec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(4))  # the reference spaces
STATED = "float32, default options, 4 numbers observed, 4 actions"  # the conditions of `default_sizes`


class Sizes(NamedTuple):
    """Number of parameters, and bytes of state of one batch element."""

    parameters: int
    state_bytes: int


def agent_sizes(agent: Agent) -> Sizes:
    """Return the sizes of an agent."""
    parameters = sum(each.numel() for each in agent.parameters())
    state = agent.initial_state(1)
    state_bytes = sum(leaf.nbytes for leaf in tree_leaves(state))
    return Sizes(parameters, state_bytes)


def default_sizes(name: str) -> Sizes | None:
    """Return the sizes of agent `name` with default options on the reference spaces, or None for an online agent.

    Builds the agent, which takes milliseconds. (On PyTorch's meta device it takes as long.)

    Raises:
        UsageError: no agent has this name, or a package that it needs is not installed.
        Exception: whatever else its file raises.
    """
    cls = agent_class(name)
    if not issubclass(cls, Agent):  # it carries no state from segment to segment
        return None
    return agent_sizes(cls(cls.Config(), SPEC))
