"""Every agent acts in and learns from any space that Gymnasium's kinds build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt_rl.agent import Agent
from rmt_rl.errors import UsageError
from tests.agents.examples import VECTOR, agents, draw, forward, make, segments, trajectory

every_agent = pytest.mark.parametrize("cls", agents())
Space = spaces.Space[Any]

shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
bounds = st.sampled_from([(-1.0, 1.0), (-np.inf, np.inf), (0.1, np.inf), (-np.inf, -3.0)])
floats = st.sampled_from([np.float32, np.float64])
boxes = st.builds(lambda ends, shape, dtype: spaces.Box(ends[0], ends[1], shape, dtype), bounds, shapes, floats)
whole = st.builds(lambda shape, dtype: spaces.Box(1, 9, shape, dtype), shapes, st.sampled_from([np.int64, np.uint8]))
sizes, channels = st.integers(5, 9), st.sampled_from([1, 3])
last = st.builds(lambda h, w, c: spaces.Box(0, 255, (h, w, c), np.uint8), sizes, sizes, channels)
first = st.builds(lambda h, w, c: spaces.Box(0, 255, (c, h, w), np.uint8), sizes, sizes, channels)
discrete = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(2, 4), st.integers(-5, 5))
grids = st.sampled_from(
    [
        spaces.MultiDiscrete([3]),
        spaces.MultiDiscrete([2, 3], start=[4, -9]),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
    ]
)


def nested(leaves: st.SearchStrategy[Space]) -> st.SearchStrategy[Space]:
    def inside(parts: st.SearchStrategy[Space]) -> st.SearchStrategy[Space]:
        keys = st.sampled_from(["a", "a.b", "observation", "return_to_go"])
        dicts = st.dictionaries(keys, parts, min_size=1, max_size=2).map(lambda each: spaces.Dict(list(each.items())))
        return dicts | st.lists(parts, min_size=1, max_size=2).map(lambda each: spaces.Tuple(tuple(each)))

    return st.recursive(leaves, inside, max_leaves=3)


observation_spaces = nested(st.one_of(boxes, whole, last, first, discrete, grids))
action_spaces = nested(st.one_of(boxes, whole, discrete, grids))


@pytest.mark.filterwarnings("ignore:.*Casting input x")  # a lane's number of a Box () is no array
@every_agent
@given(observations=observation_spaces, actions=action_spaces)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_acts_in_and_learns_from_any_space(cls: type[Agent], observations: Space, actions: Space) -> None:
    for space in (observations, actions):
        space.seed(0)
    agent = make(cls, cls.Config.model_validate({"segment_length": 2, "width": 16}), observations, actions)
    state: Any = None
    for step in range(5):
        action, state = agent.predict(draw(observations, 3), state, deterministic=step % 2 == 0)
        assert all(each in actions for each in iterate(batch_space(actions, 3), action))
    single, _ = agent.predict(observations.sample())
    assert single in actions

    parts = segments([trajectory(observations, actions, steps) for steps in (5, 4, 1)], segment_length=2)
    losses_BT = forward(agent.train(), parts)[1]
    assert losses_BT.isfinite().all()
    losses_BT.sum().backward()
    for name, parameter in agent.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_agent
@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Sequence(VECTOR), spaces.Graph(VECTOR, None)])
def test_an_unknown_kind_of_space_is_named(cls: type[Agent], space: Space) -> None:
    name = type(space).__name__
    for unknown in (space, spaces.Dict(a=VECTOR, b=space), spaces.Tuple((VECTOR, space))):
        for given_spaces in ((unknown, spaces.Discrete(2)), (VECTOR, unknown)):
            with pytest.raises(UsageError, match=f"space={name}.*use Box, Discrete"):
                make(cls, cls.Config(), *given_spaces)


@every_agent
def test_the_order_of_a_dicts_keys_is_no_matter(cls: type[Agent]) -> None:
    """Equal spaces give equal agents, whatever order they, or their values, were written in."""
    one, other = spaces.Dict(b=spaces.Discrete(3), a=VECTOR), spaces.Dict(a=VECTOR, b=spaces.Discrete(3))
    assert list(one) != list(other)
    agent = make(cls, cls.Config(), one, one, seed=3)
    twin = make(cls, cls.Config(), other, other, seed=4)
    twin.load_state_dict(agent.state_dict())
    observation = draw(one, 4)
    actions = agent.predict(observation)[0]
    np.testing.assert_equal(twin.predict({"a": observation["a"], "b": observation["b"]})[0], actions)
    torch.testing.assert_close(twin.state_dict(), agent.state_dict())
