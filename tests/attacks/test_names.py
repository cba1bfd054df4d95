"""Names in received files that would have a module imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.options import run_config_class
from tests.attacks.scene import PAYLOAD, Scene

NAMES = [
    "payload:Payload",
    "payload:Payload-v0",
    "payload:CartPole-v1",
    "payload.deeper:Thing",
    "payload",
    "antigravity:Env",
    "this:CartPole-v1",
    "os:system",
    "subprocess:Popen",
    "gymnasium.core:Wrapper",
    "gymnasium:Env",
    "rmt_rl.envs",
    "rmt_rl.envs.tmaze",
    "rmt_rl.named_tasks:os.system.make",
    "../payload:Payload",
    "highway_env:highway-v0",
    "gymnasium_robotics:PointMaze_UMaze-v3",
    "planted",
]
COMMANDS = [
    "evaluate run --episodes 1",
    "inspect run",
    "train --config run --out again",
    "train --resume run",
    "collect tmaze --policy run --episodes 2",
    "flops run",
]
HERE = ("antigravity", "this", "highway_env", "gymnasium_robotics")


@pytest.fixture(autouse=True)
def planted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant packages that specs may import where they are installed, and a folder that looks like an installed one."""
    for name in ("highway_env", "gymnasium_robotics", "planted"):
        (scene.here / f"{name}.py").write_text(PAYLOAD)
        monkeypatch.delitem(sys.modules, name, raising=False)
    info = scene.here / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    ours = ("envs", "agents", "feeds", "loggers", "encoders", "formats", "commands")
    groups = [f"rmt_rl.{kind}" for kind in ours]
    points = "\n".join(f"[{group}]\nplanted = planted" for group in [*groups, "torch.backends"])
    (info / "entry_points.txt").write_text(points)


@pytest.fixture(autouse=True)
def nothing_imported() -> None:
    run_config_class.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_s_name_in_a_config(scene: Scene, name: str) -> None:
    scene.in_config("env", value=name)
    before = set(sys.modules)
    assert main(["evaluate", "run"]) == 2
    with pytest.raises(UsageError):
        rmt_rl.evaluate("run", episodes=1)
    assert not set(HERE) & (set(sys.modules) - before)


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_s_name_in_a_config_and_in_a_checkpoint(scene: Scene, name: str) -> None:
    scene.in_config("agent", value=name)
    scene.in_header(agent=name)
    before = set(sys.modules)
    assert main(["evaluate", "run"]) == 2
    with pytest.raises(UsageError):
        rmt_rl.load("run")
    assert not set(HERE) & (set(sys.modules) - before)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_a_run(scene: Scene, command: str) -> None:
    scene.in_config("env", value="payload:CartPole-v1")
    scene.in_config("agent", value="payload:Payload")
    scene.in_header(agent="payload:Payload")
    assert main(command.split()) == 2


def test_plot_reads_no_options(scene: Scene) -> None:
    scene.in_config("env", value="payload:CartPole-v1")
    scene.in_config("agent", value="payload:Payload")
    assert main(["plot", "run"]) == 0


@pytest.mark.parametrize("name", ["payload:Payload", "os:system", "shutil:rmtree", "planted", "subprocess:Popen"])
@pytest.mark.parametrize("path", [("data", "feed"), ("logger",), ("learner",), ("data", "fillers")])
def test_a_feed_s_logger_s_or_learner_s_name_in_a_config(scene: Scene, path: tuple[str, ...], name: str) -> None:
    scene.in_config(*path, value=name)
    for command in ("train --config run --out again", "train --resume run"):
        assert main(command.split()) == 2, command


@pytest.mark.parametrize("name", ["payload:Payload", "os:system", "torch.nn:Linear", "planted", "tempfile:mkdtemp"])
def test_an_encoder_s_name_in_a_config_and_in_a_checkpoint(scene: Scene, name: str) -> None:
    options = read_checkpoint(path_of(scene.run)).header.agent_options
    scene.in_config("agent_options", "encoder", value=name)
    for command in ("train --config run --out again", "train --resume run"):
        assert main(command.split()) == 2, command
    scene.in_header(agent_options=options | {"encoder": name})
    for command in COMMANDS:
        assert main(command.split()) == 2, command
    with pytest.raises(UsageError):
        rmt_rl.load("run")


@pytest.mark.parametrize("key", ["import", "modules", "imports", "plugins"])
def test_a_config_s_own_imports(scene: Scene, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene.in_config(key, value=["payload"])
    assert main(["train", "--resume", "run"]) == 2
    assert f"unknown option {key}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("identity", "entry_point"),
    [
        ("payload/Payload-v0", "payload:Payload"),
        ("Payload-v0", "payload:Payload"),
        ("CartPole-v1", "payload:Payload"),
        ("rmt_rl/TMaze-v0", "payload:Payload"),
        ("subprocess/Popen-v0", "subprocess:Popen"),
        ("Planted-v0", "rmt_rl.named_tasks:payload.Payload.make"),
        ("highway-v0", "highway_env.envs:HighwayEnv"),
        ("PointMaze_UMaze-v3", "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv"),
        ("../../payload-v0", "payload:Payload"),
        ("GymV21Environment-v0", "shimmy:GymV21"),
    ],
)
@pytest.mark.parametrize("field", ["env_spec", "eval_env_spec"])
def test_the_environment_of_a_data_set(scene: Scene, identity: str, entry_point: str, field: str) -> None:
    spec = {"id": identity, "entry_point": entry_point, "kwargs": {"args": "touch ran"}, "additional_wrappers": []}
    dataset = scene.in_metadata("CartPole", **{field: json.dumps(spec), "env_spec": json.dumps(spec)})
    assert main(["train", "--dataset", dataset, "bc", "--updates", "1", "--out", "again"]) == 2


def test_a_data_set_s_requirements(scene: Scene) -> None:
    dataset = scene.in_metadata("CartPole", requirements=["payload"], code_permalink="payload")
    command = "--updates 1 --eval-episodes 0 --accelerator cpu --logger jsonl --out again --batch-size 2"
    assert main(["train", "CartPole-v1", "bc", "--dataset", dataset, *command.split()]) == 0


@pytest.mark.parametrize("name", ["planted", "payload:Payload"])
def test_a_stranger_s_module_is_no_command_to_type(scene: Scene, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene.in_config("env", value=name)
    assert main(["evaluate", "run"]) == 2
    assert f"--import {name.partition(':')[0]}" not in capsys.readouterr().err


def test_a_module_that_the_user_names_is_imported_from_the_current_folder(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene.here / "my_own_maze.py").write_text(
        "from rmt_rl.envs.tmaze import Config, Expert, ID, make\nimport my_helper\n"
    )
    (scene.here / "my_helper.py").write_text("")
    monkeypatch.setattr(sys, "path", sys.path[1:])
    for name in ("my_own_maze", "my_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["flops", "run", "--import", "my_own_maze"]) == 0
    assert {"my_own_maze", "my_helper"} <= set(sys.modules)


def test_the_folder_of_a_data_set_is_not_on_the_path_of_a_command(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmt_rl.plugins import declared, import_installed, without_current_folder

    for entry in ("", str(scene.here), ".", str(scene.here / ".." / "here")):
        monkeypatch.setattr(sys, "path", [entry, *sys.path[1:]])
        assert "planted" not in [each.name for each in declared("rmt_rl.envs")]
        with without_current_folder():
            assert entry not in sys.path
        assert sys.path[0] == entry
        with pytest.raises(ModuleNotFoundError):
            import_installed("planted")


def test_a_file_that_hides_the_folder_s_path_by_a_link(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmt_rl.plugins import import_installed

    link = tmp_path / "link"
    link.symlink_to(scene.here)
    monkeypatch.setattr(sys, "path", [str(link), *sys.path[1:]])
    with pytest.raises(ModuleNotFoundError):
        import_installed("planted")
