"""The contracts of every agent on a GPU: the numbers of the CPU in fp32 and bf16, and acting like a whole segment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.data.segment import Segment
from rmt_rl.recurrence import tree_leaves
from tests.agents.examples import MIXED, SMALL, VECTOR, agents, forward, make, segments, trajectory, variants
from tests.agents.test_agent_contract import STARTS, STEPS, Played, scene
from tests.gpu.device import DEVICE, PRECISIONS, TOLERANCE, number_format

LENGTH = SMALL["segment_length"]


def uneven() -> tuple[Segment, ...]:
    """Return three segments of episodes of unlike lengths."""
    return segments([trajectory(VECTOR, MIXED, steps) for steps in (12, 9, 4)], LENGTH)


def numbers(agent: Agent, parts: tuple[Segment, ...]) -> dict[str, Tensor]:
    """Return losses, states and gradients as vectors, on the CPU in float32."""
    _, losses_BT, state = forward(agent, parts)
    gradients = torch.autograd.grad(
        losses_BT.sum(), list(agent.parameters()), allow_unused=True, materialize_grads=True
    )
    found = {"losses": [losses_BT], "states": tree_leaves(state), "gradients": list(gradients)}
    return {name: _joined(tensors) for name, tensors in found.items()}


def _joined(tensors: list[Tensor]) -> Tensor:
    flat = [tensor.detach().float().cpu().flatten() for tensor in tensors]
    return torch.cat([torch.ones(1), *flat])  # not empty, and not zero


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("cls", "config"), variants())
def test_numbers_are_those_of_the_cpu(cls: type[Agent], config: AgentConfig, precision: str) -> None:
    parts = uneven()
    agent = make(cls, config)
    expected = numbers(agent, parts)
    agent.to(DEVICE)
    with number_format(precision):
        found = numbers(agent, tuple(part.to(DEVICE) for part in parts))
    for name, vector in expected.items():
        distance = float((found[name] - vector).norm() / vector.norm())
        assert distance < TOLERANCE[precision], name


@pytest.mark.parametrize("cls", agents())
def test_acting_step_by_step_is_like_whole_segments(cls: type[Agent]) -> None:
    config: Any = cls.Config.model_validate(SMALL)
    agent = make(cls, config).double().to(DEVICE)
    played = Played(agent, *scene())
    for lane, starts in enumerate(STARTS):
        for start, stop in zip(starts, (*starts[1:], STEPS), strict=True):
            parts = tuple(part.to(DEVICE) for part in played.segments(lane, start, stop))
            with torch.no_grad():
                logits_1TP, _, _ = forward(agent, parts)
            torch.testing.assert_close(played.numbers_TBP[start:stop, lane], logits_1TP[0])
