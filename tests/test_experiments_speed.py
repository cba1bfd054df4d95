"""The speed benchmark runs from end to end; how fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_quick_benchmark_measures_everything_and_writes_its_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.speed.rate", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "rate.json").read_text())
    small = written["results"]["small"]
    assert written["quick"]
    speeds = [speed for result in small.values() for speed in result.get("steps_per_second", [])]
    assert len(speeds) == 5
    assert min(speeds) > 0
    assert 0 < small["floor"]["attention_flops_per_step"] < small["floor"]["flops_per_step"]
    assert set(small["late"]["milliseconds_per_step"]) == {"100", "300"}
    table = (tmp_path / "rate.md").read_text()
    assert table.count("| small | ") == 7 + 2 + 1 + 3
    assert table in done.stdout
