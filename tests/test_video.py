"""Videos of evaluations: the episodes that were evaluated, whole files or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from imageio_ffmpeg import count_frames_and_secs

from rmt_rl.acting.video import check_videos
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.registry import import_named
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.options import make_config
from tests.test_cli import TINY
from tests.tiny import work_folder

Capture = pytest.CaptureFixture[str]
EVALUATE = ["evaluate", "run", "--episodes", "3", "--num-envs", "2"]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a run."""
    with work_folder(tmp_path_factory) as folder:
        assert main(["train", "tmaze", "dt", *TINY, "--updates", "4", "--eval-episodes", "0", "--out", "run"]) == 0
        yield folder


@pytest.mark.parametrize("sample", [[], ["--sample"]], ids=["likeliest", "sampled"])
def test_videos_show_the_first_episodes_of_the_evaluation(capsys: Capture, sample: list[str]) -> None:
    out = Path("sampled" if sample else "likeliest")
    vary = ["--vary", "corridor_length=2,5"]
    assert main([*EVALUATE, *vary, *sample, "--video", "3", "--out", str(out)]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()[2:]]
    lengths = []
    for result in read_results(out):
        at = result["options"]["corridor_length"]
        seen: dict[int, int] = {}
        for episode in result["episodes"]:
            lane = episode["lane"]
            number = seen.setdefault(lane, 0)
            seen[lane] += 1
            path = out / "videos" / f"corridor_length={at}-env-{lane}-episode-{number}.mp4"
            lengths.append(episode["length"])
            frames, _ = count_frames_and_secs(path)
            assert frames - episode["length"] in (1, 2), "moviepy may show the last one twice"
            assert path in printed
    assert len(lengths) == len(printed) == 6
    assert sorted(path.name for path in out.iterdir()) == ["config.toml", "evaluation.json", "videos"]
    assert sorted(out.joinpath("videos").iterdir()) == sorted(printed), "no half-written file"


def test_an_environment_that_draws_nothing_says_so_before_anything_is_played() -> None:
    import_named("tests.recall:Recall")
    with pytest.raises(UsageError, match=r"can't be drawn with render_mode='rgb_array': .*; leave out --video"):
        check_videos(make_config({"env": "tests.recall:Recall", "agent": "bc"}))


def test_a_missing_package_is_named(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moviepy", None)
    assert main([*EVALUATE, "--video", "1", "--out", "without"]) == 2
    shown = capsys.readouterr()
    assert "--video needs 'moviepy', which is not installed: pip install 'rmt-rl[video]'" in shown.err
    assert shown.out == ""
    assert not Path("without").exists()


def test_the_folder_must_be_writable(capsys: Capture) -> None:
    Path("blocked").mkdir()
    Path("blocked/videos").touch()
    assert main([*EVALUATE, "--video", "1", "--out", "blocked"]) == 2
    assert "blocked/videos can't be written to" in capsys.readouterr().err
    Path("elsewhere").mkdir()
    Path("blocked/videos").unlink()
    Path("blocked/videos").symlink_to("../elsewhere")
    assert main([*EVALUATE, "--video", "1", "--out", "blocked"]) == 2
    assert "blocked/videos is a link to '../elsewhere'" in capsys.readouterr().err
    assert not list(Path("elsewhere").iterdir())
