"""Real short runs on what real data look like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import rmt_rl
from rmt_rl.acting.collect import collect
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import Behaviour, Share
from rmt_rl.cli import main
from rmt_rl.data.feed import PickedFeed
from rmt_rl.data.segment import Span, cut
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import tree_leaves
from rmt_rl.registry import load_task
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.loop import Loop, resume, train
from rmt_rl.training.segments import SegmentLearner
from tests.tiny import Values, assert_same_run, metrics, started, tiny, weights, work_folder

Capture = pytest.CaptureFixture[str]
TILES = "tests/Tiles-v0"
QUIET = {"eval_episodes": 0}


@pytest.fixture(autouse=True, scope="module")
def _work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    gymnasium.register(TILES, f"{__name__}:Tiles")
    with work_folder(tmp_path_factory):
        yield
    del gymnasium.registry[TILES]


class Tiles(gymnasium.Env[np.ndarray[Any, Any], np.ndarray[Any, Any]]):
    """Six images, each with a tile at one of 3 x 2 places: naming its row and column gives 1."""

    observation_space = spaces.Box(0, 255, (18, 16, 3), np.uint8)
    action_space = spaces.MultiDiscrete([3, 2])

    def __init__(self, render_mode: None = None, rows: tuple[int, ...] = (0, 1, 2)) -> None:
        self.rows = rows

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.left = 6
        return self._image(), {}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[Any, float, bool, bool, Any]:
        self.left -= 1
        reward = float((action == self.place).all())
        return self._image(), reward, self.left == 0, False, {}

    def _image(self) -> np.ndarray[Any, Any]:
        self.place = self.np_random.choice(self.rows), self.np_random.integers(2)
        image = self.np_random.integers(0, 60, (18, 16, 3), dtype=np.uint8)
        row, column = self.place
        image[6 * row : 6 * row + 6, 8 * column : 8 * column + 8] += 180
        return image


def write_tiles(identity: str, rows: tuple[int, ...] = (0, 1, 2), episodes: int = 40, steps: int = 6) -> str:
    """Episodes of the best play, with tiles in these rows only."""
    env = Tiles(rows=rows)

    def play(number: int) -> Trajectory:
        images, actions = [env.reset(seed=number)[0]], []
        for _ in range(steps):
            actions.append(np.array(env.place))
            images.append(env.step(actions[-1])[0])
        ends = np.arange(steps) == steps - 1
        rewards = np.ones(steps)
        return Trajectory(np.stack(images), np.stack(actions), rewards, ends, np.zeros(steps, np.bool_), seed=number)

    write_dataset(
        identity,
        map(play, range(episodes)),
        env_spec=gymnasium.spec(TILES),
        observation_space=env.observation_space,
        action_space=env.action_space,
        algorithm_name="best",
        description="Tiles.",
    )
    return identity


def tiles(*dataset: str, data: Values, training: Values) -> OfflineRun:
    """The config of a run on Tiles."""
    config = make_config(
        {
            "env": TILES,
            "agent": "rate",
            "agent_options": {"segment_length": 3, "width": 32, "heads": 2, "layers": 1},
            "data": {"dataset": dataset, "batch_size": 8} | data,
            "training": {"accelerator": "cpu", "save_every": 1000} | training,
            "evaluation": QUIET,
        }
    )
    assert isinstance(config, OfflineRun)
    return config


def test_multi_discrete_actions_from_images_of_several_data_sets(tmp_path: Path) -> None:
    upper, lower = write_tiles("tiles/upper-v0", rows=(0, 1)), write_tiles("tiles/lower-v0", rows=(2,))
    returns = {}
    for name, dataset in {"both": [upper, lower], "upper": [upper]}.items():
        train(tiles(*dataset, data={"segments": 2}, training={"updates": 100, "learning_rate": 3e-3}), tmp_path / name)
        agent = rmt_rl.load(tmp_path / name)
        returns[name] = evaluate(agent, load_task(TILES), {}, 20, seed=7, target_return=6.0).mean_return
    assert returns["both"] > 5.5
    assert returns["upper"] < 4.8, "a third of the places are in the other data set alone"


def test_continuous_actions(tmp_path: Path, capsys: Capture) -> None:
    assert main(["collect", "Pendulum-v1", "--policy", "random", "--episodes", "6"]) == 0
    identity = capsys.readouterr().out.strip()
    small = "--agent.segment-length 8 --agent.width 16 --agent.heads 2 --agent.layers 1 --batch-size 8"
    run = ["--eval-episodes", "2", "--updates", "30", "--accelerator", "cpu", "--out", "pendulum"]
    feed = ["--feed", "windows", "--burn-in", "2", "--learning-rate", "0.003"]
    assert main(["train", "Pendulum-v1", "rate", "--dataset", identity, *small.split(), *run, *feed]) == 0
    lines = metrics(Path("pendulum"))
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]
    (played,) = [line["eval/mean_return"] for line in lines if "eval/mean_return" in line]
    assert -2000 < played < 0
    agent = rmt_rl.load("pendulum")
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation)
    assert env.action_space.contains(action)


def through(learner: SegmentLearner, span: Span, state: Any) -> tuple[Tensor, Any]:
    """Outputs (steps, P) and state of a span, segment after segment."""
    outputs = []
    for segment in cut([span], learner.config.agent_options.segment_length):
        numbers, state = learner.model(segment, state)
        outputs.append(numbers[0])
    return torch.cat([torch.empty(0, learner.model.to_action.out_features), *outputs]), state


@torch.no_grad()
def test_burn_in_makes_the_state_of_an_episode_that_goes_on(tmp_path: Path) -> None:
    learner = started(tiny(data={"feed": "windows", "segments": 1, "burn_in": 5}), tmp_path)
    feed, store = learner.feed, learner.store
    assert isinstance(feed, PickedFeed)
    picks, batch = feed.picks(0), feed.batch(0)
    assert not (picks.start - picks.burn_in).any(), "no episode has more than 12 steps"
    assert len({0, *picks.start.tolist()}) > 3, "else this tests little"
    numbers, _ = learner.model(batch.segments[0], learner.initial_state(batch))
    fresh, _ = learner.model(batch.segments[0], learner.model.initial_state(8))
    for lane, (episode, start, stop) in enumerate(zip(*(column.tolist() for column in picks[:3]), strict=True)):
        before, window = store.span(episode, 0, stop).split(start)
        _, state = through(learner, before, learner.model.initial_state(1))
        wanted, _ = through(learner, window, state)
        torch.testing.assert_close(numbers[lane, : stop - start], wanted, rtol=1e-4, atol=1e-5)
        assert start == 0 or not torch.allclose(fresh[lane, : stop - start], wanted, rtol=1e-4, atol=1e-5)


def test_no_gradient_crosses_burn_in(tmp_path: Path) -> None:
    learner = started(tiny(data={"feed": "windows", "segments": 1, "burn_in": 2}), tmp_path)
    batch = learner.feed.batch(0)
    state = learner.initial_state(batch)
    ran = batch.burn_in[0].lengths > 0
    assert 0 < ran.sum() < len(ran)
    for lanes, learned in ((ran, False), (~ran, True)):  # what a fresh state has learned stays learnable
        total = torch.stack([leaf[lanes].sum() for leaf in tree_leaves(state)]).sum()
        gradients = torch.autograd.grad(total, list(learner.model.parameters()), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and bool(gradient.any()) for gradient in gradients) == learned


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_with_burn_in_goes_on_as_if_never_stopped(precision: str, tmp_path: Path) -> None:
    options = {"segment_length": 4, "width": 16, "heads": 2, "layers": 1, "dropout": 0.2}
    data = {"feed": "windows", "segments": 2, "burn_in": 1}
    config, made = tiny(agent_options=options, data=data, ageing=2, ageing_from=0.3, precision=precision), []
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "run", lambda update, _: made.append(update), lambda: len(made) == 5) == 5
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    train(tiny(agent_options=options, data=data | {"burn_in": 0}, precision=precision), tmp_path / "without")
    assert not torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "without"))


@pytest.mark.parametrize("feed", ["episodes", "streams"])
def test_burn_in_of_another_feed_is_refused(feed: str) -> None:
    with pytest.raises(UsageError, match=f"data: burn_in=2 computes .* feed='{feed}' .* burn_in=0 or"):
        tiny(data={"feed": feed, "burn_in": 2})


def test_streams_carry_the_state_through_a_long_episode(tmp_path: Path) -> None:
    write_tiles("tiles/long-v0", episodes=2, steps=2000)
    frozen = {"updates": 30, "learning_rate": 1e-30, "weight_decay": 0.0}
    data = {"feed": "streams", "segments": 3, "batch_size": 2, "cache_mb": 1}
    config = tiles("tiles/long-v0", data=data, training=frozen)
    learner = started(config, tmp_path)
    feed, store = learner.feed, learner.store
    assert isinstance(feed, PickedFeed)
    read = store.span(0, 900, 909).trajectory
    assert len(read) == 9, "of 2000, so that memory never holds an episode"
    Loop(learner, tmp_path, config.schedule, {}).run()
    episodes = feed.picks(0).episodes.tolist()
    assert sorted(episodes) == [0, 1]
    for lane, episode in enumerate(episodes):
        with torch.no_grad():
            _, state = through(learner, store.span(episode, 0, 30 * 9), learner.model.initial_state(1))
        for carried, wanted in zip(tree_leaves(learner.carried), tree_leaves(state), strict=True):
            torch.testing.assert_close(carried[lane], wanted[0], rtol=1e-3, atol=1e-4)


def test_an_agent_gets_the_return_that_it_is_asked_for(tmp_path: Path) -> None:
    corridors = {"corridor_length": (1, 4)}
    mixed = Behaviour((Share("expert"), Share("random")))
    dataset = collect("tmaze", corridors, 1000, 0, mixed)
    agent_options = {"segment_length": 4, "width": 32, "heads": 2, "layers": 1}
    options = {"env_options": corridors, "agent_options": agent_options, "evaluation": QUIET}
    data = {"dataset": [dataset], "batch_size": 32}
    train(tiny(**options, data=data, updates=400, learning_rate=5e-3, ageing=0, save_every=1000), tmp_path / "run")
    agent = rmt_rl.load(tmp_path / "run")
    reached = {
        asked: evaluate(agent, load_task("tmaze"), corridors, 200, seed=9, target_return=asked).mean_return
        for asked in (0.0, 1.0)
    }
    assert reached[1.0] > 0.95
    assert reached[0.0] < 0.05
