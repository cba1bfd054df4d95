"""The contract of every agent, found by discovery, with each of its options; in float64 where equality is claimed.

Dimensions: T steps, B lanes, P numbers of the action head; segments of 4 steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.data.segment import Segment, Span, collate
from rmt_rl.recurrence import tree_leaves
from rmt_rl.registry import agent_class
from tests.agents.examples import (
    MIXED,
    SMALL,
    VECTOR,
    agents,
    changed,
    forward,
    has_memory,
    make,
    options,
    segments,
    trajectory,
    variants,
)
from tests.data.episodes import segment_of

LENGTH, STEPS = SMALL["segment_length"], 23
STARTS = ((0,), (0, 9), (0, 2, 13))  # the steps at which each lane's episodes begin: lanes stand at mixed places

every_agent = pytest.mark.parametrize("cls", agents())
every_variant = pytest.mark.parametrize(("cls", "config"), variants())


class Played:
    """The observations and actions of an agent, step by step."""

    def __init__(self, agent: Agent, observations_TB3: Any, returns_TB: Any, starts_TB: Any) -> None:
        numbers: list[Tensor] = []
        hook = agent.to_action.register_forward_hook(lambda module, inputs, output: numbers.append(output.clone()))
        state, actions = None, []
        for observation, to_go, start in zip(observations_TB3, returns_TB, starts_TB, strict=True):
            action, state = agent.predict({"observation": observation, "return_to_go": to_go}, state, start)
            actions.append(action)
        hook.remove()
        self.observations_TB3, self.returns_TB = observations_TB3, returns_TB
        self.actions = [np.stack(part) for part in zip(*actions, strict=True)]
        self.numbers_TBP = torch.stack(numbers)

    def segments(self, lane: int, start: int, stop: int) -> tuple[Segment, ...]:
        """These steps of a lane as training would see them."""

        def cut(leaf: Any) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(leaf[start:stop, lane].copy())[None].split(LENGTH, 1))

        parts = zip(*(cut(leaf) for leaf in (self.observations_TB3, self.returns_TB, *self.actions)), strict=True)
        return tuple(segment_of(seen, tuple(did), to_go, torch.tensor([seen.shape[1]])) for seen, to_go, *did in parts)


def scene() -> tuple[Any, Any, Any]:
    """Random observations and returns-to-go, and the steps at which episodes start."""
    random = np.random.default_rng(0)
    starts_TB = np.zeros((STEPS, len(STARTS)), bool)
    for lane, starts in enumerate(STARTS):
        starts_TB[list(starts), lane] = True
    observations = random.normal(size=(*starts_TB.shape, 3)).astype(np.float32)
    return observations, random.normal(size=starts_TB.shape).astype(np.float32), starts_TB


@every_variant
def test_acting_is_the_training_forward(cls: type[Agent], config: AgentConfig) -> None:
    """Over several segments, each lane's episodes beginning at steps of their own.

    The forward pass has one episode alone. So this also says that lanes are independent, and that one which restarts is
    like one that began.
    """
    agent = make(cls, config).double()
    played = Played(agent, *scene())
    for lane, starts in enumerate(STARTS):
        for start, stop in zip(starts, (*starts[1:], STEPS), strict=True):
            with torch.no_grad():
                numbers_1TP, _, _ = forward(agent, played.segments(lane, start, stop))
            torch.testing.assert_close(played.numbers_TBP[start:stop, lane], numbers_1TP[0])


@every_agent
def test_a_lane_that_restarts_is_like_one_that_began(cls: type[Agent]) -> None:
    """By acting alone; `test_acting_is_the_training_forward` says the same of every variant."""
    agent = make(cls, cls.Config.model_validate(SMALL)).double()
    observations, returns, starts_TB = scene()
    together = Played(agent, observations, returns, starts_TB)
    for lane, starts in enumerate(STARTS):
        here = slice(starts[-1], STEPS), slice(lane, lane + 1)
        alone = Played(agent, observations[here], returns[here], starts_TB[here])
        torch.testing.assert_close(alone.numbers_TBP, together.numbers_TBP[here])
        for own, shared in zip(alone.actions, together.actions, strict=True):
            np.testing.assert_allclose(own, shared[here], rtol=1e-6)


@every_variant
def test_no_action_depends_on_what_comes_later(cls: type[Agent], config: AgentConfig) -> None:
    """Nor on the action of its own step, which training shows."""
    agent = make(cls, config, actions=spaces.Box(-1, 1, (2,))).double()
    shapes = {"observation": (2, 12, 3), "action": (2, 12, 2), "return_to_go": (2, 12)}
    given = {token: torch.randn(shape, dtype=torch.float64, requires_grad=True) for token, shape in shapes.items()}
    cuts = zip(*(value.split(LENGTH, 1) for value in given.values()), strict=True)
    parts = tuple(segment_of(seen, did, to_go, torch.tensor([LENGTH] * 2)) for seen, did, to_go in cuts)
    numbers_BTP, _, _ = forward(agent, parts)
    names = (*agent.tokens, *agent.conditions)
    inputs = [given[token] for token in names]
    for place in (0, 2, LENGTH - 1, LENGTH, 2 * LENGTH + 1):
        loss = numbers_BTP[:, place].square().sum()
        gradients = dict(zip(names, torch.autograd.grad(loss, inputs, retain_graph=True), strict=True))
        assert gradients["observation"][:, place].abs().min() > 0
        for token, gradient in gradients.items():
            assert gradient[:, place if token == "action" else place + 1 :].abs().sum() == 0


def spoil(leaf: Any, mask_BK: Tensor) -> Any:
    """Large numbers in the floats of the padding."""
    mask = mask_BK.view(*mask_BK.shape, *[1] * (leaf.ndim - 2))
    return torch.where(mask, leaf, 1e3) if leaf.is_floating_point() else leaf


@every_variant
def test_padding_changes_nothing(cls: type[Agent], config: AgentConfig) -> None:
    """Neither losses of real steps nor what follows nor gradients; also where zero isn't a value of the space."""
    agent = make(cls, config, spaces.Tuple((VECTOR, spaces.Discrete(2, start=-7)))).double()
    episodes = [trajectory(agent.spec.observation_space, MIXED, 3 * LENGTH) for _ in range(3)]
    cuts = [(0, 4, 8, 12), (0, 4, 6, 10), (0, 4, 4, 4)]  # the second segment has 4, 2 and 0 steps; the last lane ends
    spans = [[Span(each, *cut[i : i + 2]) for each, cut in zip(episodes, cuts, strict=True)] for i in range(3)]
    padded = tuple(collate(lanes) for lanes in spans)
    tampered = tuple(
        replace(
            part,
            observations=tuple(spoil(leaf, part.mask) for leaf in part.observations),
            actions=tuple(spoil(leaf, part.mask) for leaf in part.actions),
            returns_to_go=spoil(part.returns_to_go, part.mask),
        )
        for part in padded
    )
    _, losses_BT, _ = forward(agent, padded)
    _, tampered_BT, _ = forward(agent, tampered)
    torch.testing.assert_close(tampered_BT, losses_BT)
    alone = []
    for lane, own in enumerate(zip(*spans, strict=True)):
        _, losses_1T, _ = forward(agent, tuple(collate([span]) for span in own if span.stop > span.start))
        mask_T = torch.cat([part.mask[lane] for part in padded])
        torch.testing.assert_close(losses_BT[lane, mask_T], losses_1T[0])
        assert (losses_BT[lane, ~mask_T] == 0).all()
        alone.append(losses_1T.sum())
    expected = torch.autograd.grad(torch.stack(alone).sum(), list(agent.parameters()))
    for loss in (losses_BT, tampered_BT):
        for gradient, other in zip(torch.autograd.grad(loss.sum(), list(agent.parameters())), expected, strict=True):
            torch.testing.assert_close(gradient, other)


def traces(cls: type[Agent], config: AgentConfig, parts: tuple[Segment, ...]) -> list[Tensor]:
    """All that an option may change, from the same seed: outputs, with dropout; states; weights and their gradients."""
    agent = make(cls, config).train()
    numbers_BTP, losses_BT, state = forward(agent, parts)
    weights = list(agent.parameters())
    gradients = torch.autograd.grad(losses_BT.sum(), weights, allow_unused=True, materialize_grads=True)
    return [numbers_BTP, *tree_leaves(state), *weights, *gradients]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Return True if there are as many, of the same shapes and the same to the last bit."""
    return len(one) == len(other) and all(map(torch.equal, one, other))


@every_agent
def test_every_option_changes_something(cls: type[Agent]) -> None:
    """Over five segments, so that a memory of a few is full, written again and read."""
    parts = segments([trajectory(VECTOR, MIXED, steps) for steps in (20, 18)], LENGTH)
    default = cls.Config.model_validate(SMALL)
    expected = traces(cls, default, parts)
    repeated = same(traces(cls, default, parts), expected)
    assert repeated
    others = {option: changed(cls.Config, option) for option in options(cls.Config)}
    assert all(others.values()), f"an option with no other value in {others}"
    without_effect = [
        f"{option}={value}"
        for option, values in others.items()
        for value, config in values
        if same(traces(cls, config, parts), expected)
    ]
    assert not without_effect, ", ".join(without_effect)


@pytest.mark.parametrize("name", ["bc", "bc_lstm", "filtered_bc"])
def test_behaviour_cloning_sees_observations_only(name: str) -> None:
    """Neither the return that is asked for nor its own actions."""
    cls: Any = agent_class(name)
    agent = make(cls, cls.Config.model_validate(SMALL))
    (part,) = segments([trajectory(VECTOR, MIXED, LENGTH)], LENGTH)
    actions: Any = part.actions
    discrete, box = actions
    other = replace(part, returns_to_go=part.returns_to_go + 5, actions=(discrete.roll(1, 1), box - 5))
    assert torch.equal(forward(agent, (other,))[0], forward(agent, (part,))[0])


CUES, WAIT, ASK = 4, 4, 5


def recall(cues_B: Tensor) -> tuple[Tensor, Tensor]:
    """Five steps: the cue is shown in the first; asked in the last, two segments later, it's the right action."""
    waits = torch.full((len(cues_B), 3), WAIT)
    observations = torch.cat((cues_B[:, None], waits, torch.full((len(cues_B), 1), ASK)), 1)
    return observations, torch.where(observations == ASK, cues_B[:, None], 0)


@every_agent
def test_what_has_a_memory_learns_to_recall(cls: type[Agent]) -> None:
    """And what carries nothing from segment to segment stays at chance: it gives every cue the same answer."""
    config = cls.Config.model_validate({"segment_length": 2, "width": 32})
    agent = make(cls, config, spaces.Discrete(CUES + 2), spaces.Discrete(CUES)).train()
    observations, actions = recall(torch.arange(CUES).repeat(2))
    parts = tuple(
        segment_of(seen, did, torch.full(did.shape, agent.spec.target_return), torch.full((len(did),), did.shape[1]))
        for seen, did in zip(observations.split(2, 1), actions.split(2, 1), strict=True)
    )
    optimizer = torch.optim.AdamW(agent.parameters(), 1e-3)
    for _ in range(400):
        loss = forward(agent, parts)[1].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    state: Any = None
    for observation in observations.T:
        answers, state = agent.predict(observation.numpy(), state)
    accuracy = float((answers == actions[:, -1].numpy()).mean())
    assert accuracy > 0.95 if has_memory(agent) else accuracy == 1 / CUES
