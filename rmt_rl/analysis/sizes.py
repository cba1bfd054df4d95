"""How large an agent is: its parameters, and the state that each lane carries from segment to segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.recurrence import tree_leaves
from rmt_rl.registry import agent_class

SPEC = AgentSpec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(4))
STATED = "float32, default options, 4 numbers observed, 4 actions"  # of `default_sizes`


class Sizes(NamedTuple):
    """Numbers to learn, and bytes of state of one lane."""

    parameters: int
    state_bytes: int


def sizes(agent: Agent) -> Sizes:
    """Of an agent as it is."""
    state = tree_leaves(agent.initial_state(1))
    return Sizes(sum(each.numel() for each in agent.parameters()), sum(leaf.nbytes for leaf in state))


def default_sizes(name: str) -> Sizes | None:
    """Of the agent of this name as `STATED`; None where it learns by acting, and so from no segments.

    It's made for that, which takes milliseconds. (On PyTorch's meta device it takes as long.)

    Raises:
        UsageError: no agent has this name, or a package that it needs is not installed.
        Exception: whatever else its file raises.
    """
    cls = agent_class(name)
    return sizes(cls(cls.Config(), SPEC)) if issubclass(cls, Agent) else None
