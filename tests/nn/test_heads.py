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


_ANY: Any = spaces  # Gymnasium's types of a Box leave bool out


@pytest.mark.parametrize("mean", [-1e30, -3e9, -0.6, 0.0, 0.6, 2.5, 7e4, 3e9, 9.3e18, 1e30])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-2, dtype=np.int8),
        spaces.MultiDiscrete(np.array([200, 3]), np.uint8, start=np.array([50, 0])),
        spaces.MultiDiscrete(np.array([[5]]), np.dtype(">i4"), start=np.array([[-9]])),
        spaces.MultiDiscrete(np.array(3), np.uint16),
        _ANY.Box(0, 1, (2, 2), np.bool_),
        _ANY.Box(np.array([True, False]), np.array([True, False]), dtype=np.bool_),
        spaces.Box(-1, 1, (), np.float16),
        spaces.Box(-np.inf, np.inf, (2,), np.float16),
        spaces.Box(-0.1, 0.1, (2,), np.float64),
        spaces.Box(0.1, np.inf, (2,), np.dtype(">f4")),
        *(spaces.Box(np.iinfo(kind).min, np.iinfo(kind).max, (2,), kind) for kind in (np.int8, np.uint32)),
        *(spaces.Box(np.iinfo(kind).min, np.iinfo(kind).max, (2,), kind) for kind in (np.int64, np.uint64)),
        spaces.Box(2**62 + 1, 2**63 - 2, (2,), np.int64),
    ],
    ids=str,
)
def test_actions_are_in_the_space_whatever_the_numbers(space: Space, mean: float) -> None:
    """In its dtype, and finite."""
    made = head(space)
    numbers = torch.full((3, made.size), mean)
    for generator in (None, torch.Generator().manual_seed(0)):
        if generator is not None and abs(mean) > 1e20 and not isinstance(space, spaces.Box):
            continue  # as logits, these numbers are no distribution
        action = made.act(numbers, generator)
        assert action.dtype == space.dtype
        assert np.isfinite(action).all()
        assert all(space.contains(row if isinstance(space, spaces.Discrete) else np.asarray(row)) for row in action)


def test_a_part_of_no_size_takes_no_parameters() -> None:
    with_empty = spaces.Dict(
        a=DISCRETE, b=spaces.Box(-1, 1, (3, 0), np.float64), c=spaces.MultiDiscrete(np.zeros(0, int))
    )
    made, alone = head(with_empty), head(spaces.Dict(a=DISCRETE))
    assert made.size == alone.size
    numbers = numbers_for(with_empty, *LEAD)
    action = {"a": torch.full(LEAD, -1), "b": torch.zeros(*LEAD, 3, 0), "c": torch.zeros(*LEAD, 0)}
    for measure in ("loss", "correct"):
        torch.testing.assert_close(getattr(made, measure)(numbers, action), getattr(alone, measure)(numbers, action))
    chosen = made.act(numbers[0], None)
    assert [(part.shape, part.dtype) for part in chosen.values()] == [((6,), int), ((6, 3, 0), float), ((6, 0), int)]


def test_draws_are_those_of_multinomial() -> None:
    logits = torch.randn(500, 7)
    drawn = head(spaces.Discrete(7)).act(logits, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    expected = torch.multinomial(logits.softmax(-1), 1, generator=generator)
    assert drawn.tolist() == expected[:, 0].tolist()
