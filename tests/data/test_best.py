"""The episodes of the highest returns, and runs that train on them alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rmt_rl.cli import main
from rmt_rl.data.best import best_episodes
from rmt_rl.data.feed import FeedConfig, make_feed
from rmt_rl.data.segment import Span
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.runs.folder import CONFIG
from rmt_rl.training.datasets import open_data, share_of_episodes
from rmt_rl.training.loop import resume, train
from tests.data.episodes import episode, write
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))


class Paid:
    """Episodes of one step with these returns."""

    def __init__(self, returns: list[float]) -> None:
        self.returns = returns
        self.lengths = np.ones(len(returns), np.int64)

    def span(self, index: int, start: int, stop: int) -> Span:
        reward = np.array([self.returns[index]])
        end, no = np.array([True]), np.array([False])
        return Span(Trajectory(np.zeros((2, 1)), np.zeros(1), reward, end, no), start, stop)


@pytest.mark.parametrize(
    ("share", "returns", "best"),
    [
        (0.4, [3, 1, 4, 2, 5], [2, 4]),
        (0.41, [3, 1, 4, 2, 5], [0, 2, 4]),  # rounded up
        (0.01, [3, 1, 4, 2, 5], [4]),
        (1.0, [3, 1, 4, 2, 5], [0, 2, 3, 4]),
        (0.25, [0, 7, 7, 1, 7], [1, 2, 4]),  # ties with the last of the best
        (0.5, [0, 0, 1, 0, 0, 0], [2]),  # the only success: the lowest return is never among the best
        (0.1, [2, 2, 2], [0, 1, 2]),  # nothing to choose by
        (0.5, [-5, -3], [1]),
    ],
)
def test_the_best_episodes(share: float, returns: list[float], best: list[int]) -> None:
    assert best_episodes(Paid(returns), share).tolist() == best


def test_a_store_keeps_them_in_batches_whole_or_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [3, 9, 5, 8, 4]  # a longer episode has a higher return, see `episode`
    write("counting/best-v0", (episode(number, length) for number, length in enumerate(lengths)))
    whole = EpisodeStore("counting/best-v0")
    monkeypatch.setattr("rmt_rl.data.store._SMALL_EPISODE", 0)
    for store in (whole, EpisodeStore("counting/best-v0", cache_bytes=400)):
        store.keep(best_episodes(store, 0.5))
        assert store.lengths.tolist() == [9, 5, 8]
        assert store.best_return == sum(range(1, 10))
        feed = make_feed(store, FeedConfig(batch_size=6, segments=9), segment_length=1, seed=0)
        first = feed.batch(0).segments[0]
        assert isinstance(first.observations, torch.Tensor)
        assert set(first.observations[:, 0, 0].tolist()) == {2, 3, 4}  # the episode's number + 1
        store.close()


def test_filtered_behaviour_cloning_reads_a_tenth_and_any_agent_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert share_of_episodes(tiny("filtered_bc")) == 0.1
    assert share_of_episodes(tiny("filtered_bc", data={"best_episodes": 0.5})) == 0.5
    assert share_of_episodes(tiny("rate")) == 1
    mixed = ["--env.corridor-length", "1", "4", "--episodes", "40", "--policy", "expert=1", "random=1"]
    assert main(["collect", "tmaze", *mixed]) == 0
    identity = capsys.readouterr().out.split()[-1]
    everything = open_data(tiny("bc", data={"dataset": identity}))
    assert len(everything) == 40
    for agent, data in {"filtered_bc": {}, "rate": {"best_episodes": 0.1}}.items():
        store = open_data(tiny(agent, data={"dataset": identity, **data}))
        returns = [float(store.episode(index).returns_to_go[0]) for index in range(len(store))]
        assert 4 <= len(store) < 40
        assert set(returns) == {everything.best_return}


def test_equal_returns_are_told() -> None:
    with pytest.warns(UserWarning, match=r"best_episodes=0.1: all 40 episodes have the return 1, so all are kept"):
        assert len(open_data(tiny("filtered_bc"))) == 40


def test_a_run_keeps_its_share() -> None:
    with pytest.warns(UserWarning, match="all 40 episodes"):
        train(tiny("filtered_bc", updates=1, evaluation={"eval_episodes": 0}), Path("run"))
    path = Path("run") / CONFIG
    text = path.read_text()
    path.write_text(text.replace("[data]", "[data]\nbest_episodes = 0.2"))
    with pytest.raises(UsageError, match=r"started with best_episodes=0.1, but would go on with 0.2"):
        resume(Path("run"))


def test_a_share_is_no_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tmaze", "bc", "--best-episodes", "10"]) == 2
    assert "best_episodes" in capsys.readouterr().err
