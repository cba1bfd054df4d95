"""Where asking for values costs, rows of tokens aren't cut to the longest one, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl import recurrence
from rmt_rl.agent import Agent
from rmt_rl.data.segment import Segment
from tests.agents.examples import MIXED, SMALL, VECTOR, agents, forward, make, segments, trajectory
from tests.agents.test_agent_contract import Played, scene


def results(cls: type[Agent], parts: tuple[Segment, ...]) -> list[Tensor]:
    """Return the logits of training on uneven episodes and of acting at mixed places, and the last state."""
    config: Any = cls.Config.model_validate(SMALL)
    agent = make(cls, config).double()
    _, losses_BT, state = forward(agent, parts)
    played = Played(agent, *scene())
    return [losses_BT.detach(), played.numbers_TBP, *map(Tensor.detach, recurrence.tree_leaves(state))]


@pytest.mark.parametrize("cls", agents())
def test_whole_rows_give_the_same_numbers(cls: type[Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = segments([trajectory(VECTOR, MIXED, steps) for steps in (14, 9, 4)], SMALL["segment_length"])
    expected = results(cls, parts)
    monkeypatch.setattr(recurrence, "is_free_to_ask", never)
    for one, other in zip(results(cls, parts), expected, strict=True):
        torch.testing.assert_close(one, other)


def never(tensor: Tensor) -> bool:
    """Return False."""
    return False
