import json
from pathlib import Path

import pytest

from experiments.large_data import growth, started, walks


def test_a_run_on_walks_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(started, "UPDATES", 1)
    walks.write("large-data/walks12-v0", 12)
    started.main("large-data/walks12-v0")
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = growth._row(12, measured | {"start": 12.5}, measured)
    assert row.startswith("| 12 | 12.5")
    assert row.count("|") == growth.HEADER.splitlines()[0].count("|")
    assert measured["update"] > 0
