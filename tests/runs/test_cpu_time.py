"""CPU seconds of a run are added up, and never cost a run its work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rmt_rl.runs.cpu_time import CPU_TIME, CpuSeconds, counted, cpu_seconds


def busy() -> None:
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass


def interrupted(run: Path, command: str) -> None:
    with counted(run, command):
        busy()
        raise KeyboardInterrupt


def test_seconds_of_commands_are_added_also_after_an_exception(tmp_path: Path) -> None:
    for command in ("train", "evaluate", "train"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path, command)
    seconds = cpu_seconds(tmp_path)
    assert seconds.train > seconds.evaluate > 0


@pytest.mark.parametrize("text", ["", "[]", '{"train": "1"', '{"train": {}}', '{"train": -1}', '{"train": NaN}'])
def test_a_damaged_file_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / CPU_TIME).write_text(text)
    assert cpu_seconds(tmp_path) == CpuSeconds()
    with counted(tmp_path, "train"):
        busy()
    assert cpu_seconds(tmp_path).train > 0


def test_without_a_run_nothing_is_written(tmp_path: Path) -> None:
    with counted(tmp_path / "run", "train"):
        pass
    assert not (tmp_path / "run").exists()
