"""The commands that users type, in every environment: data made, an agent trained on them, rolled out, data shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import minari
import pytest

from rmt_rl import registry
from rmt_rl.cli import main
from tests.envs.test_env_contract import NAMES

SMALL = ["--agent.segment-length", "4", "--agent.width", "16", "--agent.heads", "2", "--batch-size", "2"]
TRAIN = [*SMALL, "--updates", "2", "--segments", "2", "--eval-episodes", "0"]


@pytest.mark.parametrize("name", NAMES)
def test_collect_train_evaluate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    short = ["--env.max-steps", "20"] if "max_steps" in registry.load_task(name).Config.model_fields else []
    assert main(["collect", name, *short, "--episodes", "4"]) == 0
    identity = capsys.readouterr().out.split()[-1]
    assert main(["train", "--dataset", identity, "rate", *TRAIN, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    (result,) = json.loads(Path("run", "evaluation.json").read_text())["results"]
    assert len(result["episodes"]) == 2

    # Plain Minari opens, lists and shows the data, and has nothing to warn of.
    script = f"import rmt_rl, minari; print(sum(len(e) for e in minari.load_dataset({identity!r}).iterate_episodes()))"
    read = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    dataset = minari.load_dataset(identity)
    assert int(read.stdout) == dataset.total_steps
    assert dataset.total_episodes == 4
    metadata = dataset.storage.metadata
    assert metadata["ref_min_score"] <= metadata["ref_max_score"]
    for command in (["list", "local"], ["show", identity]):
        shown = subprocess.run([Path(sys.executable).with_name("minari"), *command], capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert "Warning" not in shown.stdout + shown.stderr
