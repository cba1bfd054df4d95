"""Hidden actions: what an agent sees of them, in which runs they are hidden, and that runs stay repeatable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.cli import main
from rmt_rl.data.segment import Segment, Span, cut
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.registry import agent_class, names
from rmt_rl.runs.folder import CONFIG
from rmt_rl.runs.options import AUTOMATIC_HIDING, TrainingConfig
from rmt_rl.training.hiding import draw_hidden, hidden_share
from rmt_rl.training.loop import resume, train
from tests.tiny import assert_same_run, known_options, started, tiny

OBSERVATIONS = Box(-1, 1, (2,))
AGENTS = [name for name in names("agents") if issubclass(agent_class(name), Agent)]


def agent_of(name: str, actions: spaces.Space[Any]) -> Agent:
    torch.manual_seed(0)
    options = known_options(name, {"segment_length": 4, "width": 16, "heads": 2, "layers": 1, "context": 4})
    cls = agent_class(name)
    agent = cls(cls.Config(**options), AgentSpec(OBSERVATIONS, actions, 1.0, 1.0))
    assert isinstance(agent, Agent)
    return agent.eval()


def segment_of(actions: NDArray[np.float64]) -> Segment:
    """Return one segment of three sequences with the same observations, the middle one of which shows its actions."""
    observations = np.random.default_rng(0).uniform(-1, 1, (len(actions) + 1, 2))
    ends = np.arange(len(actions)) == len(actions) - 1
    episode = Trajectory(observations, actions, np.ones(len(actions)), ends, np.zeros(len(actions), bool))
    (segment,) = cut([Span(episode, 0, len(actions))] * 3, 4)
    return replace(segment, hides_actions=torch.tensor([True, False, True]))


@pytest.mark.parametrize("name", AGENTS)
def test_hidden_actions_are_not_seen_and_others_are(name: str) -> None:
    agent = agent_of(name, Box(-1, 1, (1,)))
    state = agent.initial_state(3)
    with torch.no_grad():
        one, _ = agent(segment_of(np.full((4, 1), -0.5)), state)
        two, _ = agent(segment_of(np.full((4, 1), 0.5)), state)
    assert torch.equal(one[[0, 2]], two[[0, 2]])
    assert torch.equal(one[1], two[1]) == ("action" not in agent.tokens)


@pytest.mark.parametrize("name", AGENTS)
def test_hidden_actions_leave_gradients_as_large_as_they_are(name: str) -> None:
    agent = agent_of(name, Box(-1, 1, (1,)))
    hidden = segment_of(np.full((4, 1), 0.5))
    norms = []
    for segment in (replace(hidden, hides_actions=None), hidden):
        agent.zero_grad()
        state = agent.initial_state(3)
        for _ in range(2):  # what the first segment writes is read in the second
            logits, state = agent(segment, state)
        loss, _ = agent.losses(logits, segment)
        loss.sum().backward()
        gradients = [parameter.grad for parameter in agent.parameters() if parameter.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
    assert norms[1] < 10 * norms[0]


@pytest.mark.parametrize(
    ("agent", "actions", "share"),
    [
        ("rate", Box(-1, 1, (1,)), AUTOMATIC_HIDING),
        ("rate", Box(-np.inf, np.inf, (1,)), AUTOMATIC_HIDING),
        ("rate", spaces.Tuple((Box(-1, 1, (1,)), Box(-1, 1, (2,)))), AUTOMATIC_HIDING),
        ("rate", spaces.Tuple((Box(-1, 1, (1,)), spaces.Discrete(2))), 0),
        ("rate", spaces.Discrete(3), 0),
        ("bc_lstm", Box(-1, 1, (1,)), 0),
    ],
)
def test_numbers_are_hidden_unasked_from_agents_that_see_them(
    agent: str, actions: spaces.Space[Any], share: float
) -> None:
    assert hidden_share(TrainingConfig(), agent_of(agent, actions)) == share


def test_the_asked_share_is_hidden_and_each_update_draws_anew() -> None:
    hidden = draw_hidden(0.3, 10_000, seed=1)
    assert abs(hidden.float().mean() - 0.3) < 0.02
    assert not torch.equal(hidden, draw_hidden(0.3, 10_000, seed=2))


def test_what_an_update_hides_is_hidden_in_all_its_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    learner = started(tiny(hide_actions=0.5, data={"segments": 3}), tmp_path / "run")
    batch = learner.feed.batch(0)
    prepared = learner.prepared(batch, ())
    first = prepared.segments[0].hides_actions
    assert first is not None
    assert 0 < first.sum() < len(first)
    assert len(prepared.segments) > 1
    assert all(segment.hides_actions is first for segment in prepared.segments)
    learner.close()


@pytest.mark.parametrize("feed", ["episodes", "streams"])
def test_a_resumed_run_hides_what_the_uninterrupted_one_does(
    feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    sections = {"data": {"feed": feed}}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(tiny(hide_actions=0.5, updates=6, **sections), whole)
    made: list[int] = []
    train(tiny(hide_actions=0.5, updates=6, **sections), stopped, lambda n, _: made.append(n), lambda: len(made) == 3)
    resume(stopped)
    assert_same_run(whole, stopped)


def test_a_share_out_of_range_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tmaze", "rate", "--hide-actions", "1", "--out", str(tmp_path / "run")]) == 2
    assert "hide_actions" in capsys.readouterr().err
    assert not (tmp_path / "run" / CONFIG).exists()
