"""Standardised numbers: moments of data, scales of observations and actions, and what an agent makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.testing import assert_allclose

from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.cli import main
from rmt_rl.data import moments as moments_module
from rmt_rl.data.moments import Moments, moments
from rmt_rl.data.segment import Span, cut
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.nn.scaling import FARTHEST, holds_numbers
from rmt_rl.registry import agent_class
from rmt_rl.runs.checkpoint import load_agent, path_of
from rmt_rl.runs.folder import CONFIG, read_config
from rmt_rl.tokens import scales_of
from rmt_rl.training.loop import resume, train
from rmt_rl.training.standards import standardise
from rmt_rl.trees import map_leaves
from tests.tiny import assert_same_run, tensors, tiny

SCALES = (1e-6, 1e-3, 1e3, 1e6)
Space = spaces.Space[Any]
NESTED = spaces.Dict(
    {
        "speed": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "count": spaces.Box(0, 1000, (2,), np.int32),
        "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "on": spaces.Box(0, 1, (2,), bool),
        "kind": spaces.Discrete(3),
        "pair": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (), np.float32))),
    }
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))


def column(space: Space, count: int, rng: np.random.Generator) -> Any:
    """Return `count` values of a space, stacked; numbers are normal, each with its own mean and deviation."""
    if isinstance(space, spaces.Dict):
        return {key: column(part, count, rng) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(column(part, count, rng) for part in space)
    if holds_numbers(space):
        assert isinstance(space, spaces.Box)
        drawn = np.clip(rng.normal(300, 20, (count, *space.shape)), space.low, space.high)
        return drawn.astype(space.dtype)
    return np.stack([space.sample() for _ in range(count)])


def episode(observations: Any, actions: Any) -> Trajectory:
    steps = len(next(iter(map_flat(actions))))
    ends = np.arange(steps) == steps - 1
    return Trajectory(observations, actions, np.ones(steps), ends, np.zeros(steps, bool))


def map_flat(value: Any) -> list[Any]:
    found: list[Any] = []
    map_leaves(found.append, value)
    return found


def store_of(
    episodes: list[Trajectory], observations: Space, actions: Space, name: str = "mine/numbers-v0"
) -> EpisodeStore:
    write_dataset(
        name,
        episodes,
        env_spec=None,
        observation_space=observations,
        action_space=actions,
        algorithm_name="random",
        description="random numbers",
    )
    return EpisodeStore(name)


def test_moments_are_those_of_all_steps() -> None:
    rng = np.random.default_rng(0)
    actions = spaces.Box(-1, 1, (2,), np.float32)
    episodes = [episode(column(NESTED, n + 1, rng), column(actions, n, rng)) for n in (1, 7, 30)]
    store = store_of(episodes, NESTED, actions)
    found = moments(store, holds_numbers, holds_numbers).observations
    assert set(found) == {("speed",), ("count",), ("pair", 1)}
    parts: list[Any] = [each.observations for each in episodes]
    speeds = np.concatenate([part["speed"][:-1] for part in parts])
    assert_allclose(found["speed",].mean, speeds.mean(0), rtol=1e-12)
    assert_allclose(found["speed",].deviation, speeds.std(0), rtol=1e-12)
    assert found["pair", 1].deviation == 1  # every value is 1: nothing to divide by


def test_moments_are_exact_far_from_zero_and_constants_are_left() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([0, 1e6, -5], 1e-3, (1000, 3))
    values[:, 2] = 0.1
    found = Moments((3,))
    for piece in np.array_split(values, 7):
        found.add(piece)
    assert_allclose(found.deviation[0], values[:, 0].std(), rtol=1e-9)
    assert found.deviation[1] == 1  # float32 can't tell these numbers apart
    assert found.deviation[2] == 1


def test_numbers_that_float32_rounds_to_zero_are_left() -> None:
    rng = np.random.default_rng(0)
    space = spaces.Box(-1e-50, 1e-50, (2,), np.float64)
    agent = agent_of(
        store_of([episode(space.sample()[None].repeat(9, 0), rng.uniform(-1e-50, 1e-50, (8, 2)))], space, space)
    )
    for name in ("observation", "action"):
        scale = scales_of(agent.scales, name).at(())
        assert scale.factor.tolist() == [1, 1]
    assert space.contains(agent.predict(np.zeros(2))[0])


def test_pieces_of_long_episodes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "STEPS", 8)
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    rising = np.arange(101.0)[:, None]
    store = store_of([episode(rising, rising[:-1])], space, space)
    found = moments(store, holds_numbers, holds_numbers).observations[()]
    assert found.count == 8
    assert 40 < found.mean[0] < 60


def test_few_steps_of_large_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "BYTES", 100)
    space = spaces.Box(-np.inf, np.inf, (100,), np.float64)
    values = np.random.default_rng(0).normal(size=(31, 100))
    store = store_of([episode(values, values[:-1])], space, space)
    assert moments(store, holds_numbers, holds_numbers).observations[()].count == moments_module.PIECES


def agent_of(store: EpisodeStore, name: str = "bc", standardised: bool = True) -> Agent:
    torch.manual_seed(0)
    cls: Any = agent_class(name)
    spec = AgentSpec(store.observation_space, store.action_space, standardised=standardised)
    agent: Agent = cls(cls.Config(width=16), spec)
    standardise(agent, store)
    return agent


def test_actions_are_mapped_from_their_bounds_and_without_bounds_by_their_moments() -> None:
    rng = np.random.default_rng(0)
    low, high = np.array([-2, 0, -np.inf], np.float32), np.array([2, 1000, np.inf], np.float32)
    actions = spaces.Box(low, high)
    observations = spaces.Box(-1, 1, (2,), np.float32)
    drawn = rng.uniform([-2, 0, 4e5], [2, 1000, 6e5], (50, 3)).astype(np.float32)
    agent = agent_of(store_of([episode(column(observations, 51, rng), drawn)], observations, actions))
    scale = scales_of(agent.scales, "action").at(())
    assert_allclose(scale.shift, [0, 500, drawn[:, 2].mean()], rtol=1e-6)
    assert_allclose(scale.factor, [2, 500, drawn[:, 2].std()], rtol=1e-5)
    chosen, _ = agent.predict(np.zeros(2, np.float32))
    assert actions.contains(chosen)
    assert 2e5 < chosen[2] < 8e5
    sampled, _ = agent.predict(np.zeros((64, 2), np.float32), deterministic=False)
    assert sampled[:, 1].std() > 50  # in the unit of the environment


def test_without_standardising_there_are_no_scales() -> None:
    rng = np.random.default_rng(0)
    space = spaces.Box(-1, 1, (2,), np.float32)
    agent = agent_of(
        store_of([episode(column(space, 5, rng), column(space, 4, rng))], space, space), standardised=False
    )
    assert not [name for name in agent.state_dict() if name.startswith("scales")]


@pytest.mark.parametrize("name", ["bc", "rate", "dt"])
@pytest.mark.parametrize("scale", SCALES)
def test_units_change_neither_losses_nor_actions(name: str, scale: float) -> None:
    """Observations and actions in another unit give the same logits, losses, and actions in that unit."""
    rng = np.random.default_rng(0)
    seen, done = rng.normal(0.5, 1, (21, 3)), rng.uniform(-1, 1, (20, 2))

    def results(unit: float, dataset: str) -> tuple[torch.Tensor, Any]:
        observations = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        actions = spaces.Box(-unit, unit, (2,), np.float64)
        trajectory = episode(seen * unit, done * unit)
        agent = agent_of(store_of([trajectory], observations, actions, dataset), name)
        segment, *_ = cut([Span(trajectory, 0, 20)], 20)
        logits, _ = agent(segment, agent.initial_state(1))
        loss, _ = agent.losses(logits, segment)
        action, _ = agent.predict(seen[0] * unit)
        return loss, action / unit

    loss, action = results(1.0, "mine/plain-v0")
    other_loss, other_action = results(scale, "mine/scaled-v0")
    torch.testing.assert_close(other_loss, loss, rtol=1e-3, atol=1e-4)
    assert_allclose(other_action, action, rtol=1e-3, atol=1e-4)


def test_far_observations_are_clipped() -> None:
    rng = np.random.default_rng(0)
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    agent = agent_of(store_of([episode(rng.normal(size=(40, 1)), rng.normal(size=(39, 1)))], space, space))
    scaled = scales_of(agent.scales, "observation")(torch.tensor([[1e6], [-1e6], [0.0]]))
    assert scaled[:2, 0].tolist() == [FARTHEST, -FARTHEST]
    assert abs(float(scaled[2, 0])) < 1


def test_a_run_keeps_its_scales(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny("bc"), run)
    agent = load_agent(run)
    assert isinstance(agent, Agent)
    scale = scales_of(agent.scales, "observation").at(())
    assert scale.factor.shape == (4,)
    assert (scale.factor != 1).any()
    assert set(scales_of(agent.scales, "action").places) == set()  # four categories

    text = (run / CONFIG).read_text()
    (run / CONFIG).write_text(
        text.replace("standardise = true", "standardise = false").replace("updates = 10", "updates = 12")
    )
    with pytest.raises(UsageError, match=r"standardise=False, but checkpoint .* was trained with True; undo"):
        resume(run)
    (run / CONFIG).write_text(text.replace("standardise = true\n", "").replace("updates = 10", "updates = 12"))
    assert "standardise" not in read_config(run).data_options.model_fields_set  # type: ignore[union-attr]
    assert resume(run) == 12


def test_a_resumed_run_has_the_scales_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(tiny("rate"), whole)
    made = iter(range(100))
    train(tiny("rate"), parted, should_stop=lambda: next(made) == 5)
    resume(parted)
    assert any("scales" in name for name in tensors(path_of(whole)))
    assert_same_run(whole, parted)


def test_categories_alone_are_trained_as_before(tmp_path: Path) -> None:
    """MiniGrid's observations are categories, so standardising changes no weight."""
    common = ["--env.size", "7", "--collect-episodes", "10", "--updates", "3", "--batch-size", "4"]
    common += ["--agent.width", "16", "--eval-episodes", "0", "--accelerator", "cpu"]
    for flag in ("--standardise", "--no-standardise"):
        assert main(["train", "minigrid_memory", "bc", *common, flag, "--out", str(tmp_path / flag)]) == 0
    expected, found = (tensors(path_of(tmp_path / flag)) for flag in ("--standardise", "--no-standardise"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
