"""Heads for Boxes with bounds: bins and mixtures against torch.distributions, and the choice between families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from rmt_rl.errors import UsageError
from rmt_rl.nn.heads import HeadName, head
from rmt_rl.nn.heads.bins import BINS, Bins
from rmt_rl.nn.heads.gaussian import Gaussian
from rmt_rl.nn.heads.joint import Joint
from rmt_rl.nn.heads.mixture import COMPONENTS, Mixture
from rmt_rl.nn.scaling import Scale
from rmt_rl.trees import leaves
from tests.random_spaces import action_spaces, assert_contained, draw_batch

Space = spaces.Space[Any]
BOX = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([2.0, 1.0], np.float32))
WHOLE = spaces.Box(0, 9, (2,), np.int64)
FREE = spaces.Box(-np.inf, np.inf, (2,))
every_family = pytest.mark.parametrize("family", ["bins", "mixture"])


def numbers_for(space: Space, family: HeadName, *lead: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(*lead, head(space, None, family).size, dtype=torch.float64).clamp(-2, 2)


def scale_of_box() -> Scale:
    scale = Scale((2,))
    scale.set(np.array([0.0, 0.75]), np.array([2.0, 0.25]))
    return scale


def drawn(count: int) -> Tensor:
    BOX.seed(0)
    return torch.from_numpy(draw_batch(BOX, count))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(place=st.floats(0, BINS - 1), seed=st.integers(0, 9))
def test_the_loss_of_bins_interpolates_between_neighbours(place: float, seed: int) -> None:
    """It is the cross entropy with a target on two bins whose mean is the action."""
    made = Bins(spaces.Box(-2, 6, (1,), np.float32))
    logits = torch.randn(1, BINS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    action = torch.tensor([[-2 + 8 * place / (BINS - 1)]], dtype=torch.float32)
    lower = min(int(place), BINS - 2)
    log_probabilities = logits.log_softmax(-1)[0]
    share = place - lower
    expected = -(1 - share) * log_probabilities[lower] - share * log_probabilities[lower + 1]
    assert made.loss(logits, action).item() == pytest.approx(expected.item(), abs=1e-3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(share=st.floats(0, 1))
def test_bins_that_learnt_an_action_take_it(share: float) -> None:
    """The least loss is at the action's own target, whose deterministic action is the action."""
    made = Bins(spaces.Box(-2, 6, (1,), np.float32))
    action = torch.tensor([[-2 + 8 * share]])
    logits = torch.zeros(1, BINS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        made.loss(logits, action).sum().backward()
        optimizer.step()
    taken = made.act(logits.detach(), None)
    np.testing.assert_allclose(taken, action, atol=0.03)
    assert made.correct(logits, action).item() == 1


def test_bins_take_one_of_two_likely_actions_and_no_mean() -> None:
    logits = torch.zeros(1, BINS)
    logits[0, 0], logits[0, -1] = 9.0, 9.1
    assert Bins(spaces.Box(-1, 1, (1,))).act(logits, None) == pytest.approx(1, abs=1e-3)


def test_samples_of_bins_are_spread_over_the_bins_drawn() -> None:
    logits = numbers_for(BOX, "bins", 1).expand(20_000, -1)
    samples = head(BOX, None, "bins").act(logits, torch.Generator().manual_seed(0))
    assert all(sample in BOX for sample in samples[:100])
    places = (samples - BOX.low) / (BOX.high - BOX.low) * (BINS - 1)
    expected = logits[0].unflatten(-1, (2, BINS)).softmax(-1)
    for number in range(2):
        found = np.bincount(np.rint(places[:, number]).astype(int), minlength=BINS) / len(places)
        np.testing.assert_allclose(found, expected[number], atol=0.01)
    offsets = places - np.rint(places)
    assert np.std(offsets) == pytest.approx(12**-0.5, abs=0.01)


def mixture(numbers: Tensor) -> MixtureSameFamily:
    """The reference, over scaled actions of two numbers."""
    logits, means, log_stds = numbers.split([COMPONENTS, 2 * COMPONENTS, 2 * COMPONENTS], -1)
    places = torch.linspace(-1, 1, COMPONENTS)[:, None]
    means, stds = means.unflatten(-1, (-1, 2)) + places, log_stds.unflatten(-1, (-1, 2)).exp()
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, stds), 1))


def test_the_loss_of_a_mixture_is_the_negative_log_likelihood_of_scaled_actions() -> None:
    numbers, action, scale = numbers_for(BOX, "mixture", 30), drawn(30), scale_of_box()
    loss = Mixture(BOX, scale).loss(numbers, action)
    torch.testing.assert_close(loss, -mixture(numbers).log_prob(scale(action).double()))


def test_a_mixture_takes_the_mean_of_its_likeliest_component() -> None:
    numbers = numbers_for(FREE, "mixture", 30)
    reference = mixture(numbers)
    likeliest = reference.mixture_distribution.probs.argmax(-1)
    means = reference.component_distribution.mean[torch.arange(30), likeliest]
    np.testing.assert_allclose(Mixture(FREE).act(numbers, None), means, rtol=1e-5)
    assert (Mixture(FREE).correct(numbers, means) == 1).all()


def test_samples_of_a_mixture_have_its_moments() -> None:
    numbers = numbers_for(FREE, "mixture", 1).expand(20_000, -1)
    samples = Mixture(FREE).act(numbers, torch.Generator().manual_seed(0))
    reference = mixture(numbers[:1])
    np.testing.assert_allclose(samples.mean(0), reference.mean[0], atol=0.1)
    np.testing.assert_allclose(samples.var(0), reference.variance[0], rtol=0.05)


@every_family
def test_a_scale_changes_nothing_but_the_unit(family: HeadName) -> None:
    """A scale between the bounds gives the actions of the same Box from -1 to 1, scaled back."""
    unit = spaces.Box(-1, 1, (2,))
    scale = scale_of_box()
    numbers = numbers_for(BOX, family, 7)
    for seed in (None, 3):
        generators = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
        scaled = head(BOX, scale, family).act(numbers, generators[0])
        ours = head(unit, None, family).act(numbers, generators[1])
        np.testing.assert_allclose(scaled, scale.undo(torch.from_numpy(ours)), rtol=1e-5)


@every_family
def test_the_half_precision_of_a_gpu_is_enough(family: HeadName) -> None:
    numbers, action = numbers_for(BOX, family, 30), drawn(30)
    made = head(BOX, scale_of_box(), family)
    exact, rough = made.loss(numbers.float(), action), made.loss(numbers.bfloat16(), action)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.1)
    for generator in (None, torch.Generator().manual_seed(0)):
        assert_contained(BOX, made.act(numbers.bfloat16(), generator), 30)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(space=action_spaces(), family=st.sampled_from(["bins", "mixture"]))
def test_every_space_with_each_family(space: Space, family: HeadName) -> None:
    """Losses and gradients are finite, and actions are in the space."""
    floats = [leaf for _, leaf in leaves(space) if leaf.dtype.kind == "f" and np.prod(leaf.shape)]
    if family == "bins" and floats and not any(np.isfinite([leaf.low, leaf.high]).all() for leaf in floats):
        with pytest.raises(UsageError, match="has none; choose 'gaussian'"):
            head(space, None, family)
        return
    made = head(space, None, family)
    space.seed(0)
    numbers = torch.randn(3, made.size, requires_grad=True)
    action = as_tensors(draw_batch(space, 3))
    loss = made.loss(numbers, action)
    assert loss.shape == (3,)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert numbers.grad is not None
    assert numbers.grad.isfinite().all()
    assert ((made.correct(numbers, action) >= 0) & (made.correct(numbers, action) <= 1)).all()
    for generator in (None, torch.Generator().manual_seed(0)):
        assert_contained(space, made.act(numbers.detach(), generator), 3)


def as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_tensors(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(as_tensors, value))
    floats = value.astype(np.float32) if value.dtype.kind == "f" else value.astype(np.int64)
    return torch.from_numpy(floats)


def test_each_leaf_takes_the_family_that_fits() -> None:
    space = spaces.Dict(bounded=BOX, free=FREE, parts=spaces.Tuple((BOX, WHOLE)))

    def families(family: HeadName) -> list[type]:
        made = head(space, None, family)
        assert isinstance(made, Joint)
        parts = made.parts["parts"]
        assert isinstance(parts, Joint)
        return [type(part) for part in (made.parts["bounded"], made.parts["free"], *parts.parts.values())]

    assert families("auto") == families("bins") == [Bins, Gaussian, Bins, Gaussian]
    assert families("gaussian") == [Gaussian] * 4
    assert families("mixture") == [Mixture, Mixture, Mixture, Gaussian]


HALF_BOUNDED = spaces.Box(np.zeros(2, np.float32), np.full(2, np.inf, np.float32))


@pytest.mark.parametrize("space", [FREE, HALF_BOUNDED, spaces.Box(-1e10, 1e10, (2,))], ids=str)
def test_bins_need_bounds(space: spaces.Box) -> None:
    assert isinstance(head(space), Gaussian)
    with pytest.raises(UsageError, match=r"head='bins' divides the range of actions, but action space=Box.* has none"):
        head(space, None, "bins")


@pytest.mark.parametrize("space", [spaces.Discrete(3), WHOLE, spaces.Box(-1, 1, (0,))], ids=str)
def test_spaces_without_bounded_numbers_have_the_same_head_as_ever(space: Space) -> None:
    assert {type(head(space, None, family)) for family in ("auto", "gaussian", "bins", "mixture")} == {
        type(head(space))
    }
