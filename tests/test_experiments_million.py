import json
from pathlib import Path

import pytest

from experiments.memory_family import million
from rmt_rl.cli import main

QUICK = "--agent.segment-length 3 --collect-episodes 8 --batch-size 4 --updates 1 --eval-episodes 0 --out run"


def test_a_run_is_rolled_out_by_the_side_of_its_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.setattr(million, "FOLDER", tmp_path)
    assert main(["train", "tmaze", "rate", *QUICK.split()]) == 0
    million.main((Path("run"),), length=20, lanes=6)
    (result,) = json.loads((tmp_path / "million.json").read_text()).values()
    assert sum(map(len, result["right"].values())) == 6
    assert len(result["cpu_seconds"]) == len(result["resident_mb"]) == 10
    assert "| run | 20 |" in (tmp_path / "million.md").read_text()
