"""Both learners learn a trivial recall task, whose cue lies in an earlier segment than its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rmt_rl

RECALL = "tests.recall:RecallTask"
SMALL = {"segment_length": 2, "width": 16, "layers": 1, "memory_tokens": 2}
LEARNERS: dict[str, dict[str, Any]] = {
    "offline": {"updates": 100, "collect_episodes": 100, "batch_size": 32, "accelerator": "cpu"},
    "ppo": {"learner": "ppo", "total_timesteps": 10_000, "n_envs": 16, "n_steps": 16, "segments": 2, "gamma": 1.0},
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_cue_is_recalled_over_a_segments_border(
    learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    agent = rmt_rl.train(
        RECALL,
        "rate",
        tmp_path / "run",
        env_options={"length": 4},
        agent_options=SMALL,
        recipe="none",
        learning_rate=3e-3,
        eval_episodes=0,
        **LEARNERS[learner],
    )
    success = rmt_rl.evaluate(agent, RECALL, episodes=100, length=4).success_rate
    assert success is not None
    assert success > 0.95  # always the same action: 0.5
