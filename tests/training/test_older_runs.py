"""Runs that were made before an option existed are loaded and resumed as they were."""

from __future__ import annotations

from pathlib import Path

from rmt_rl import load
from rmt_rl.agent_options import AgentConfig
from rmt_rl.runs.folder import CONFIG
from rmt_rl.training.loop import resume, train
from tests.agents.test_agent_checkpoint import change
from tests.tiny import tiny


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
