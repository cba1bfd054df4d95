"""Episodes that are drawn in a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rmt_rl.cli import main
from rmt_rl.cli.pictures import as_text

CAUGHT = pytest.CaptureFixture[str]
EVALUATE = ["evaluate", "zoo:tmaze-rate", "--vary", "corridor_length=3,2", "--episodes", "2", "--render"]


def test_the_first_episode_at_each_value_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAUGHT
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "COLUMNS": "60", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    assert main(EVALUATE) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[:2]] == ["corridor_length=3:", "corridor_length=2:"]
    assert captured.err.count("▀") > 1000
    assert "\x1b[38;2;" in captured.err


def test_without_a_terminal_a_video_is_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAUGHT) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(EVALUATE) == 2
    error = "error: --render draws in a terminal in UTF-8; to have a file, record a video: --video 1\n"
    assert capsys.readouterr().err == error


def test_a_picture_fits_into_the_terminal_and_keeps_its_colours() -> None:
    picture = np.zeros((40, 200, 3), np.uint8)
    picture[:, 100:] = 255
    text = as_text(picture, columns=50, lines=30)
    assert [len(line) for line in text.plain.splitlines()] == [50] * 5
    first, last = text.spans[0].style, text.spans[49].style
    assert (str(first), str(last)) == ("#000000 on #000000", "#ffffff on #ffffff")
    narrow = as_text(picture, columns=500, lines=10).plain.splitlines()
    assert [len(line) for line in narrow] == [100] * 10
