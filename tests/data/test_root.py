"""The folder of all data sets on machines that can't have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmt_rl.data.opening import open_dataset
from rmt_rl.data.references import read_references
from rmt_rl.data.root import data_root, has_dataset
from rmt_rl.errors import UsageError


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("/proc/none", r"~/\.minari/datasets, can't be made \(.*set MINARI_DATASETS_PATH to a folder"),
        ("~", "there is no home folder for data sets; set MINARI_DATASETS_PATH"),  # of a user whom the system lacks
    ],
)
def test_without_a_home_a_data_set_can_be_missed_but_not_opened(
    home: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    monkeypatch.setenv("HOME", home)
    assert not has_dataset("wood/trees-v0")
    assert read_references(["wood/trees-v0"]) is None
    with pytest.raises(UsageError, match=message):
        open_dataset("wood/trees-v0")
    assert not list(tmp_path.iterdir())


def test_a_given_folder_that_can_not_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/proc/none")
    with pytest.raises(UsageError, match=r"MINARI_DATASETS_PATH is '/proc/none', which can't be made"):
        data_root()
