"""Links in received folders through which something would be written elsewhere."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rmt_rl.cli import main
from rmt_rl.files import append, write_atomically
from tests.attacks.scene import PRECIOUS, Scene

EVALUATE = "evaluate run --episodes 2"
RESUME = "train --resume run"


def prolong(scene: Scene) -> None:
    scene.in_config("training", "updates", value=3)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (".evaluation.json.tmp", EVALUATE),
        ("evaluation.json", EVALUATE),
        (".last.safetensors.tmp", RESUME),
        ("best.safetensors", RESUME),
        (".best.safetensors.tmp", RESUME),
        (".metrics.jsonl.tmp", RESUME),
    ],
)
def test_a_link_in_a_run_s_folder(scene: Scene, name: str, command: str) -> None:
    prolong(scene)
    link = scene.run / name
    link.unlink(missing_ok=True)
    link.symlink_to(scene.victim)
    assert main(command.split()) == 0
    assert scene.victim.read_text() == PRECIOUS
    assert name.startswith(".") or not link.is_symlink(), "the link was replaced"


def test_links_in_the_place_of_an_inspection(scene: Scene) -> None:
    names = ("inspection.json", "inspection.png")
    for name in names:
        (scene.run / name).symlink_to(scene.victim)
        (scene.run / f".{name}.tmp").symlink_to(scene.victim)
    assert main(["inspect", "run", "--segments", "2", "--episodes", "4", "--memories", "2"]) == 0
    assert not any((scene.run / name).is_symlink() for name in names)


def test_the_metrics_of_a_run_are_no_link(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    prolong(scene)
    metrics = scene.run / "metrics.jsonl"
    metrics.unlink()
    for target in (scene.victim, scene.victim.with_name("absent")):
        metrics.symlink_to(target)
        assert main(RESUME.split()) == 2
        assert f"metrics.jsonl is a link to '{target}'" in capsys.readouterr().err
        metrics.unlink()


def test_the_metrics_of_a_run_share_no_file(scene: Scene, tmp_path: Path) -> None:
    prolong(scene)
    metrics, other = scene.run / "metrics.jsonl", tmp_path / "other"
    os.link(metrics, other)
    before = other.read_text()
    assert main(RESUME.split()) == 0
    assert other.read_text() == before
    assert len(metrics.read_text()) > len(before)


def test_a_line_is_never_written_through_a_link(scene: Scene) -> None:
    link = scene.here / "lines"
    link.symlink_to(scene.victim)
    with pytest.raises(OSError):  # noqa: PT011 - of any number
        append(link, "more\n")


@pytest.mark.parametrize("name", ["wandb", ".wandb"])
def test_a_service_s_folder_is_no_link(scene: Scene, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    prolong(scene)
    scene.in_config("logger", value=["wandb"])
    (scene.run / name).symlink_to(scene.victim.parent)
    assert main(RESUME.split()) == 2
    assert f"{name} is a link" in capsys.readouterr().err


def test_a_new_run_in_a_folder_with_links(scene: Scene) -> None:
    new = scene.here / "new"
    new.mkdir()
    absent = scene.victim.with_name("absent")
    for name in ("config.toml", "last.safetensors", "best.safetensors"):
        (new / name).symlink_to(absent)
    assert main(["train", "--config", "run", "--out", "new", "--updates", "1"]) == 0
    assert not absent.exists()


def test_a_picture_s_place(scene: Scene) -> None:
    (scene.here / "curves.png").symlink_to(scene.victim)
    (scene.here / ".curves.png.tmp").symlink_to(scene.victim)
    assert main(["plot", "run", "--out", "curves.png"]) == 0
    assert not (scene.here / "curves.png").is_symlink()


def test_temporary_names_differ_and_are_cleared_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    real: Callable[..., None] = os.replace

    def noting(source: Path, target: Path) -> None:
        names.append(source.name)
        real(source, target)

    monkeypatch.setattr(os, "replace", noting)
    path = scene.here / "file"
    for _ in range(2):
        write_atomically(path, b"x")
    assert names[0] != names[1]
    assert all(re.fullmatch(r"\.file\.[0-9a-f]{8}-\d+-[0-9a-f]{16}\.tmp", name) for name in names)
    old = scene.here / ".file.0-0-old.tmp"
    fresh = scene.here / ".file.0-0-fresh.tmp"
    linked = scene.here / ".file.0-0-linked.tmp"
    for each in (old, fresh):
        each.write_text("")
    linked.symlink_to(scene.victim)
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    write_atomically(path, b"y")
    assert [old.exists(), fresh.exists()] == [False, True], "another machine may be writing"


def test_a_long_name_is_written(scene: Scene) -> None:
    path = scene.here / ("n" * 240 + ".json")
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
