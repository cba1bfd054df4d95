"""Action heads against torch.distributions: likelihood, mode, samples."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from rmt_rl.nn.heads import head

Space = spaces.Space[Any]
DISCRETE = spaces.Discrete(4, start=-2)
GRID = spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[0, 1], [-3, 5]]))
BINARY = spaces.MultiBinary([2, 3])
BOX = spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
NESTED = spaces.Dict(z=spaces.Tuple((DISCRETE, BOX)), a=GRID)
LEAD = (5, 6)

every_space = pytest.mark.parametrize("space", [DISCRETE, GRID, BINARY, BOX, NESTED], ids=lambda s: type(s).__name__)


def numbers_for(space: Space, *lead: int) -> Tensor:
    """Random; within the range in which a Gaussian's log standard deviation isn't clipped."""
    torch.manual_seed(0)
    return torch.randn(*lead, head(space).size, dtype=torch.float64).clamp(-2, 2)


@singledispatch
def log_prob(space: Space, numbers: Tensor, action: Any) -> Tensor:
    """The reference: log-likelihood (...) by torch.distributions; a Dict's parts come in the order of their keys."""
    raise NotImplementedError


@log_prob.register
def _(space: spaces.Discrete, numbers: Tensor, action: Tensor) -> Tensor:
    result: Tensor = Categorical(logits=numbers).log_prob(action - int(space.start))
    return result


@log_prob.register
def _(space: spaces.MultiDiscrete, numbers: Tensor, action: Tensor) -> Tensor:
    indices = (action - torch.from_numpy(space.start)).flatten(-2).unbind(-1)
    parts = zip(numbers.split(space.nvec.ravel().tolist(), -1), indices, strict=True)
    return torch.stack([Categorical(logits=logits).log_prob(index) for logits, index in parts]).sum(0)


@log_prob.register
def _(space: spaces.MultiBinary, numbers: Tensor, action: Tensor) -> Tensor:
    off, on = numbers.unflatten(-1, (-1, 2)).unbind(-1)
    result: Tensor = Bernoulli(logits=on - off).log_prob(action.flatten(-2).double()).sum(-1)
    return result


@log_prob.register
def _(space: spaces.Box, numbers: Tensor, action: Tensor) -> Tensor:
    mean, log_std = numbers.chunk(2, -1)
    result: Tensor = Normal(mean, log_std.exp()).log_prob(action.flatten(-2).double()).sum(-1)
    return result


@log_prob.register(spaces.Tuple)
def _(space: spaces.Tuple[Any], numbers: Tensor, action: Any) -> Tensor:
    split = numbers.split([head(part).size for part in space], -1)
    return torch.stack([log_prob(*each) for each in zip(space, split, action, strict=True)]).sum(0)


@log_prob.register
def _(space: spaces.Dict, numbers: Tensor, action: Any) -> Tensor:
    keys = sorted(space)
    return log_prob(spaces.Tuple([space[key] for key in keys]), numbers, tuple(action[key] for key in keys))


def drawn(space: Space) -> Any:
    """Random actions (*LEAD, ...) as tensors."""
    if isinstance(space, spaces.Dict):
        return {key: drawn(part) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(drawn(part) for part in space)
    space.seed(0)
    return torch.from_numpy(np.stack([space.sample() for _ in range(int(np.prod(LEAD)))])).unflatten(0, LEAD)


def as_tensors(action: Any) -> Any:
    if isinstance(action, dict):
        return {key: as_tensors(part) for key, part in action.items()}
    return tuple(as_tensors(part) for part in action) if isinstance(action, tuple) else torch.as_tensor(action)


@every_space
def test_the_loss_is_the_negative_log_likelihood(space: Space) -> None:
    numbers, action = numbers_for(space, *LEAD), drawn(space)
    torch.testing.assert_close(head(space).loss(numbers, action), -log_prob(space, numbers, action))


@every_space
def test_the_deterministic_action_is_the_likeliest(space: Space) -> None:
    numbers = numbers_for(space, *LEAD).flatten(0, 1)
    mode = as_tensors(head(space).act(numbers, None))
    assert (head(space).correct(numbers, mode) == 1).all()
    best = log_prob(space, numbers, mode)
    for seed in range(20):
        sample = as_tensors(head(space).act(numbers, torch.Generator().manual_seed(seed)))
        assert (log_prob(space, numbers, sample) <= best + 1e-6).all()


@every_space
def test_samples_have_the_entropy_of_the_distribution(space: Space) -> None:
    """Their mean log-likelihood tends to minus it, which is found by torch.distributions' own samples."""
    numbers = numbers_for(space, 1).expand(20_000, -1)
    samples = as_tensors(head(space).act(numbers, torch.Generator().manual_seed(0)))
    again = as_tensors(head(space).act(numbers, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(again, samples)
    mean = log_prob(space, numbers, samples).mean()
    torch.testing.assert_close(mean, -entropy(space, numbers[0]), atol=0.05, rtol=0)


@singledispatch
def entropy(space: Space, numbers: Tensor) -> Tensor:
    sizes = {spaces.Discrete: [4], spaces.MultiDiscrete: [2, 3, 4, 2], spaces.MultiBinary: [2] * 6}[type(space)]
    return torch.stack([Categorical(logits=part).entropy() for part in numbers.split(sizes)]).sum()


@entropy.register
def _(space: spaces.Box, numbers: Tensor) -> Tensor:
    mean, log_std = numbers.chunk(2)
    result: Tensor = Normal(mean, log_std.exp()).entropy().sum()
    return result


@entropy.register
def _(space: spaces.Dict, numbers: Tensor) -> Tensor:
    grid, discrete, box = numbers.split([head(part).size for part in (GRID, DISCRETE, BOX)])
    return entropy(GRID, grid) + entropy(DISCRETE, discrete) + entropy(BOX, box)


def test_accuracy_is_the_share_of_parts_that_are_right() -> None:
    grid = head(GRID)
    numbers = numbers_for(GRID, 1)
    action = as_tensors(grid.act(numbers, None))
    action[0, 0, 0] = 1 - action[0, 0, 0]
    assert grid.correct(numbers, action).tolist() == [0.75]


def test_samples_stay_inside_the_box() -> None:
    space = spaces.Box(np.array([-0.1, 0.2], np.float32), np.array([0.1, np.inf], np.float32))
    actions = head(space).act(3 * numbers_for(space, 500), torch.Generator().manual_seed(0))
    assert actions.dtype == np.float32
    assert all(action in space for action in actions)
    assert (actions[:, 0] == space.high[0]).any()


def test_whole_numbers_are_the_nearest() -> None:
    space = spaces.Box(0, 10, (3,), np.int64)
    numbers = torch.tensor([[6.9, 2.2, 11.0, 0, 0, 0]])
    action = head(space).act(numbers, None)
    np.testing.assert_array_equal(action, [[7, 2, 10]])
    assert action.dtype == np.int64


def test_a_gaussian_cannot_become_a_spike_or_a_desert() -> None:
    """Log standard deviations are kept in -5 ... 2, so that the loss of exact data is bounded below."""
    space = spaces.Box(-np.inf, np.inf, (1,))
    for raw, kept in ((-100.0, -5.0), (100.0, 2.0)):
        loss = head(space).loss(torch.tensor([[0.0, raw]]), torch.zeros(1, 1))
        torch.testing.assert_close(loss, -Normal(0.0, np.exp(kept)).log_prob(torch.zeros(1)))
