"""Inputs that an agent refuses, and corner cases of its options."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.backprop import full, replay
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.nn.space_encoder import observation_encoder
from rmt_rl.registry import agent_class

SPEC = AgentSpec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(3))


def rate(spec: AgentSpec = SPEC) -> Agent:
    cls = cast("type[Agent]", agent_class("rate"))
    return cls(cls.Config.model_validate({"width": 16, "heads": 2, "segment_length": 3}), spec)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 2, 4), ()])
def test_an_observation_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"observation has shape .*\(4,\)"):
        rate().predict(np.zeros(shape, np.float32))


def test_lanes_that_do_not_agree_are_refused() -> None:
    agent = rate()
    _, state = agent.predict(np.zeros((3, 4), np.float32))
    with pytest.raises(UsageError, match="state is of 3 environments, the observation of 2"):
        agent.predict(np.zeros((2, 4), np.float32), state)
    with pytest.raises(UsageError, match="episode_start is of 1 environments, the observation of 3"):
        agent.predict(np.zeros((3, 4), np.float32), state, np.array([True]))


def test_an_action_is_the_callers() -> None:
    agent = rate(SPEC._replace(action_space=spaces.Box(-1, 1, (2,))))
    played = []
    for changed in (False, True):
        state, actions = None, []
        for step in range(5):
            action, state = agent.predict(np.full((2, 4), step / 5, np.float32), state)
            actions.append(action.copy())
            action *= 1 - changed
        played.append(np.stack(actions))
    np.testing.assert_array_equal(played[0], played[1])


def test_an_observation_may_have_a_return_to_go_of_its_own() -> None:
    own = {"observation": np.ones(4, np.float32), "return_to_go": np.ones(1, np.float32)}
    space = spaces.Dict(observation=spaces.Box(-1, 1, (4,)), return_to_go=spaces.Box(-1, 1, (1,)))
    agent = rate(SPEC._replace(observation_space=space, action_space=spaces.Box(-1, 1, (2,)), target_return=3.0))
    plain, _ = agent.predict(own)
    wrapped, _ = agent.predict({"observation": own, "return_to_go": np.array([3.0], np.float32)})
    other, _ = agent.predict({"observation": own, "return_to_go": np.array([-3.0], np.float32)})
    np.testing.assert_array_equal(plain, wrapped)
    assert (other != plain).any()


def test_a_new_agent_samples_anew_unless_seeded() -> None:
    observation = np.zeros((200, 4), np.float32)
    draws = [rate().predict(observation, deterministic=False)[0] for _ in range(2)]
    assert (draws[0] != draws[1]).any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rate", {"heads": 5}, "heads=5 must divide width=64"),
        ("rate", {"reads": "free", "cached": 10}, "reads=free has no Transformer-XL cache"),
        ("dt", {"context": 10, "segment_length": 30}, "context=10 is less than segment_length=30"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validated(agent_class(name).Config, options)


@pytest.mark.parametrize("shape", [(84, 84, 12), (12, 84, 84), (36, 48, 3), (3, 48, 36), (1, 9, 9)])
def test_the_channels_of_an_image_are_found(shape: tuple[int, ...]) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    image = observation_encoder(space, 8, "auto")
    assert image.convolutions[0].in_channels == min(shape[0], shape[-1])  # type: ignore[union-attr, index]
    assert image(torch.as_tensor(space.sample())[None]).shape == (1, 8)


@pytest.mark.parametrize("how", [full, replay])
def test_a_loss_that_does_not_reach_the_learned_initial_state(how: Any) -> None:
    """Its parameters get no gradient, and that is no error."""
    learned, weight = torch.nn.Parameter(torch.ones(2, 1)), torch.nn.Parameter(torch.ones(1))

    def step(index: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return (weight * (index + 1)).sum(), state.detach()

    loss, _ = how(step, 3, learned * 1, Tensor.backward)
    assert float(loss) == 6
    assert weight.grad is not None
    assert float(weight.grad) == 6
    assert learned.grad is None
