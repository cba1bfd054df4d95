"""Runs that were made before an option existed are loaded and resumed as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rmt_rl import load
from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, parse_share
from rmt_rl.agent_options import AgentConfig
from rmt_rl.runs.folder import CONFIG
from rmt_rl.runs.named_options import named_config
from rmt_rl.training.loop import resume, train
from tests.agents.test_agent_checkpoint import change
from tests.tiny import tiny, weights


def test_a_run_older_than_the_choice_of_heads_and_encoders_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny("bc", updates=2), run)
    change(run / "last.safetensors", agent_options={"segment_length": 4, "width": 16})
    config = run / CONFIG
    text = config.read_text()
    for option in AgentConfig.EARLIER:
        text = text.replace(f'{option} = "auto"\n', "")
    config.write_text(text.replace("updates = 2", "updates = 3"))
    assert resume(run) == 3
    assert load(run).config.head == "gaussian"


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_older_than_hidden_actions_hides_none(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    dataset = collect("Pendulum-v1", {}, 4, seed=0, behaviour=Behaviour((parse_share("random"),)))
    small = {"agent_options": {"segment_length": 4, "width": 16}, "batch_size": 4, "eval_episodes": 0}
    own = {"dataset": [dataset], "feed": "windows", "updates": 4, "save_every": 1, **small}
    older, visible = tmp_path / "older", tmp_path / "visible"
    hides_none = named_config("Pendulum-v1", "rate", own | {"hide_actions": 0.0})
    train(hides_none, visible)

    # An earlier version wrote no such option, and broke off before its first update or behind its second one.
    made: list[int] = []
    train(hides_none, older, lambda update, _: made.append(update), lambda: len(made) == 2)
    config = older / CONFIG
    config.write_text(config.read_text().replace("hide_actions = 0.0\n", ""))
    assert "hide_actions" not in config.read_text()
    if not begun:
        (older / "last.safetensors").unlink()
        (older / "metrics.jsonl").unlink()
    assert resume(older) == 4
    assert torch.equal(weights(older), weights(visible))
