"""The auxiliary loss on what a trajectory ends at, and accuracy where it matters, as the task declares them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rmt_rl
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.cli import main
from rmt_rl.data.segment import Segment, Span, cut
from rmt_rl.registry import agent_class
from tests.agents.examples import SMALL, trajectory
from tests.tiny import tensors

OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
SIZES = ["--agent.segment-length", "6", "--agent.width", "16", "--agent.heads", "2", "--batch-size", "4"]
QUICK = [*SIZES, "--collect-episodes", "20", "--updates", "3", "--log-every", "1", "--eval-episodes", "2"]
TRAIN = ["train", "minigrid_memory", "rate", "--env.size", "7", "--recipe", "none", *QUICK]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path


def agent_of(classes: int) -> Agent:
    torch.manual_seed(0)
    cls = cast("type[Agent]", agent_class("rate"))
    return cls(cls.Config.model_validate(SMALL), AgentSpec(OBSERVATIONS, ACTIONS, hindsight_classes=classes))


def segment_of(classes: list[int]) -> Segment:
    whole = replace(trajectory(OBSERVATIONS, ACTIONS, len(classes)), hindsight=np.array(classes))
    return cut([Span(whole, 0, len(whole))], len(classes))[0]


def test_it_is_the_cross_entropy_at_the_steps_that_have_a_class() -> None:
    agent, segment = agent_of(3), segment_of([2, -1, 0])
    numbers, _ = agent(segment, agent.initial_state(1))
    assert numbers.shape == (1, 3, 2 + 3)
    plain, _ = agent.losses(numbers, segment)
    both, _ = agent.losses(numbers, segment, hindsight=0.5)
    log_likelihood = numbers[0, :, 2:].log_softmax(-1)
    expected = -0.5 * torch.stack([log_likelihood[0, 2], torch.tensor(0.0), log_likelihood[2, 0]])
    torch.testing.assert_close((both - plain)[0], expected)


def test_acting_takes_no_notice_of_it() -> None:
    """The heads are apart: whatever is made of the hindsight classes, the same actions are taken."""
    agent = agent_of(3)
    observation = np.zeros((4, 3), np.float32)
    before, _ = agent.predict(observation)
    with torch.no_grad():
        agent.to_action.weight[2:] = 100
        agent.to_action.bias[2:] = 100
    after, _ = agent.predict(observation)
    assert (before == after).all()
    assert set(after.tolist()) <= {0, 1}


def metrics(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_it_is_saved_resumed_and_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--out", "with"]) == 0
    assert main([*TRAIN, "--hindsight", "1", "--out", "stated"]) == 0
    assert main([*TRAIN, "--hindsight", "0", "--out", "without"]) == 0
    assert [line["train/loss"] for line in metrics("with")] == [line["train/loss"] for line in metrics("stated")]
    assert all(0 <= line["train/decisive_accuracy"] <= 1 for line in metrics("without"))
    assert metrics("with")[0]["train/loss"] > metrics("without")[0]["train/loss"]
    assert rmt_rl.load("with").spec.hindsight_classes == 2
    assert rmt_rl.load("without").spec.hindsight_classes == 0
    config = Path("with", "config.toml")
    config.write_text(config.read_text().replace("updates = 3", "updates = 4"))
    assert main(["train", "--resume", "with"]) == 0
    assert len(tensors(Path("with", "last.safetensors"))["model/to_action.bias"]) == 7 + 2
    assert main(["evaluate", "with", "--episodes", "2"]) == 0


def test_an_agent_of_an_earlier_run_learns_it_if_it_did_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--out", "with"]) == 0
    assert main([*TRAIN, "--hindsight", "0", "--out", "without"]) == 0
    for earlier, classes in (("with", 2), ("without", 0)):
        assert main([*TRAIN, "--init", earlier, "--out", f"behind-{earlier}"]) == 0
        assert rmt_rl.load(f"behind-{earlier}").spec.hindsight_classes == classes
        warned = "the agent has 0 hindsight classes, the environment 2" in capsys.readouterr().err
        assert warned == (classes == 0)
    assert main([*TRAIN, "--init", "without", "--hindsight", "1", "--out", "refused"]) == 2
    assert "hindsight=1.0, but init=without has 0 classes of it" in capsys.readouterr().err


def test_a_run_older_than_it_goes_on_without(tmp_path: Path) -> None:
    assert main([*TRAIN, "--hindsight", "0", "--out", "older"]) == 0
    config = Path("older", "config.toml")
    config.write_text(config.read_text().replace("hindsight = 0.0\n", ""))
    assert "hindsight" not in config.read_text()
    for name in ("last.safetensors", "metrics.jsonl"):  # broken off before its first checkpoint
        Path("older", name).unlink()
    assert main(["train", "--resume", "older"]) == 0
    assert rmt_rl.load("older").spec.hindsight_classes == 0


def test_memories_are_aged_by_idle_steps() -> None:
    ageing = ["--env.size", "21", "--agent.segment-length", "3", "--ageing", "2", "--ageing-from", "0"]
    assert main([*TRAIN, *ageing, "--out", "aged"]) == 0


def test_an_environment_without_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tmaze", "rate", "--hindsight", "1"]) == 2
    assert "hindsight=1.0: env 'tmaze' declares no hindsight; set it to 0" in capsys.readouterr().err
