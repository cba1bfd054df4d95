"""Received files, such as data sets and run folders, run nothing that the user didn't name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmt_rl.acting.collect import collect
from rmt_rl.cli import main
from rmt_rl.data.opening import open_dataset
from rmt_rl.data.root import data_root
from rmt_rl.errors import UsageError
from rmt_rl.plugins import declared
from tests.tiny import work_folder

SPEC = {"id": "Evil-v0", "entry_point": "os:system", "kwargs": {"command": "touch ran"}, "additional_wrappers": []}


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as path:
        yield path


def collected() -> str:
    return collect("tmaze", {"corridor_length": 2}, episodes=4, seed=0)


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_data_set_without_a_space_makes_no_environment(name: str, folder: Path) -> None:
    identity = collected()
    path = data_root() / identity / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata[name]
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(SPEC)}))
    for arguments in (["train", "--dataset", identity, "bc"], ["train", "tmaze", "bc", "--dataset", identity]):
        assert main([*arguments, "--updates", "1", "--out", "run"]) == 2
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("identity", ["../elsewhere/data-v0", "/tmp/data-v0", "a/../b-v0"])
def test_a_data_set_is_one_of_the_data_sets_folder(identity: str) -> None:
    with pytest.raises(UsageError, match="is malformed; give namespace/name-v0"):
        open_dataset(identity)


def test_a_folder_in_which_the_user_stands_declares_no_entry_points(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = folder / "stray-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rmt_rl.envs]\nstray = stray\n")
    monkeypatch.syspath_prepend(str(folder))
    assert "stray" not in [each.name for each in declared("rmt_rl.envs")]
    monkeypatch.chdir("/")
    assert "stray" in [each.name for each in declared("rmt_rl.envs")], "found as an installed one elsewhere"


def test_an_environment_with_the_id_of_another_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "copied_maze.py").write_text(
        'from rmt_rl.envs import tmaze\nclass Maze:\n    ID = "rmt_rl/TMaze-v0"\n    Config = tmaze.Config\n'
        "    make = staticmethod(tmaze.make)\n"
    )
    assert main(["train", "copied_maze:Maze", "bc", "--out", "run"]) == 2
    message = "has the ID 'rmt_rl/TMaze-v0', which belongs to rmt_rl.envs.tmaze:make; choose another"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mylab/maze.py:Maze", "is no name; write module:Name with dots in the module"),
        ("mylab.maze:", "is no name; write module:Name"),
        ("mylab.maze", "unknown env 'mylab.maze' .*your own are named module:Name"),
        ("needs_more:Maze", "module 'needs_more' can't be imported .*; install 'a_package_that_is_absent'"),
    ],
)
def test_names_that_users_mistype(name: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "needs_more.py").write_text("import a_package_that_is_absent\n")
    assert main(["train", name, "bc", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
