"""Small instances of every agent that the registry finds, and random data of any space for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from pydantic import ValidationError
from torch import Tensor

from rmt_rl import registry
from rmt_rl.agent import Agent, AgentConfig, AgentSpec
from rmt_rl.agent_options import SeenName
from rmt_rl.data.segment import Segment, Span, cut
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import tree_leaves

SMALL = {"segment_length": 4, "width": 40}
UNTOUCHED = {"attention", "encoder", "head", "target_rate"}
"""Options that have their own tests; some of their values need a GPU."""
OTHERS: dict[Any, tuple[Any, ...]] = {
    bool: (False, True),
    int: (5, 3, 8),
    float: (0.5,),
    str: ("dlstm",),
    tuple[SeenName, ...]: (("return_to_go", "observation"),),
}
"""Values to try, by type."""
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
MIXED = spaces.Tuple((spaces.Discrete(3, start=5), spaces.Box(-1, 1, (2,), np.float32)))


def agents() -> list[Any]:
    """Return the class of every agent that learns from segments, as parameters of a test.

    Agents whose package isn't installed are skipped.
    """
    params = []
    for name in registry.names("agents"):
        try:
            cls = registry.agent_class(name)
            if issubclass(cls, Agent):
                params.append(pytest.param(cls, id=name))
        except UsageError as error:
            params.append(pytest.param(None, id=name, marks=pytest.mark.skip(reason=str(error))))
    return params


def variants() -> list[Any]:
    """Return the class and a config of every agent, as parameters of a test.

    The configs are the default at small size, and one for each option, in which this option alone has another value.
    Options that are floats are left out, since they take no other path through the code.
    """
    return [
        pytest.param(cls, config, id=f"{param.id}-{label}", marks=param.marks)
        for param in agents()
        for cls in param.values
        for label, config in (_configs(cls.Config) if cls else [("", None)])
    ]


def _configs(model: type[AgentConfig]) -> Iterator[tuple[str, AgentConfig]]:
    yield "default", model.model_validate(SMALL)
    for option in options(model):
        for value, config in changed(model, option):
            if not isinstance(value, float):
                yield f"{option}={value}", config


def options(model: type[AgentConfig]) -> list[str]:
    """Return the options that are varied."""
    return [option for option in model.model_fields if option not in {*SMALL, *UNTOUCHED}]


def changed(model: type[AgentConfig], option: str) -> list[tuple[Any, AgentConfig]]:
    """Return other values of an option, each with a config in which this option alone isn't the default.

    An option with named choices gets each choice. Another option gets the first value of `OTHERS` that the
    config accepts.
    """
    field = model.model_fields[option]
    choice = get_origin(field.annotation) is Literal
    kinds = [field.annotation] if get_origin(field.annotation) is None else get_args(field.annotation)
    values = get_args(field.annotation) if choice else OTHERS[kinds[0]]
    found = []
    for value in values:
        if value != field.default:
            try:
                found.append((value, model.model_validate(SMALL | {option: value})))
            except ValidationError:
                continue
    return found if choice else found[:1]


def make(
    cls: type[Agent],
    config: AgentConfig,
    observations: spaces.Space[Any] = VECTOR,
    actions: spaces.Space[Any] = MIXED,
    seed: int = 0,
) -> Agent:
    """Return an agent with random weights and random scales of its numbers, ready to act."""
    torch.manual_seed(seed)
    spec = AgentSpec(observations, actions, target_return=2.0, return_scale=2.0, standardised=True)
    agent = cls(config, spec).eval()
    for name, buffer in agent.scales.named_buffers():
        random = torch.rand_like(buffer)
        buffer.copy_(random + 0.5 if name.endswith("factor") else random)
    return agent


def has_memory(agent: Agent) -> bool:
    """Return True if the agent carries a state from segment to segment."""
    return bool(tree_leaves(agent.initial_state(1)))


def trajectory(observations: spaces.Space[Any], actions: spaces.Space[Any], steps: int) -> Trajectory:
    """Return an episode of random values of the spaces."""
    ends = np.arange(steps) == steps - 1
    rewards = np.random.default_rng(steps).normal(size=steps)
    return Trajectory(
        draw(observations, steps + 1), draw(actions, steps), rewards, terminations=ends, truncations=np.zeros_like(ends)
    )


def draw(space: spaces.Space[Any], count: int) -> Any:
    """Return random values of a space, stacked."""
    out: Any = create_empty_array(space, count)
    return concatenate(space, [space.sample() for _ in range(count)], out)


def segments(trajectories: list[Trajectory], segment_length: int) -> tuple[Segment, ...]:
    """Return whole episodes, one for each batch element, cut into segments as in training."""
    return cut([Span(each, 0, len(each)) for each in trajectories], segment_length)


def forward(agent: Agent, parts: tuple[Segment, ...]) -> tuple[Tensor, Tensor, Any]:
    """Return the logits (B, T, P), the losses (B, T) and the state after all segments."""
    state, logits, losses = agent.initial_state(len(parts[0].lengths)), [], []
    for part in parts:
        out, state = agent(part, state)
        logits.append(out)
        losses.append(agent.losses(out, part)[0])
    return torch.cat(logits, 1), torch.cat(losses, 1), state
