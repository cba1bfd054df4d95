"""Formats that hold code, in place of those that don't."""

from __future__ import annotations

import ast
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from tests.attacks.scene import PAYLOAD, Scene


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil()))


def saved_by_torch(path: Path) -> None:
    torch.save({"model": Evil()}, path)


def saved_by_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Evil()], object), allow_pickle=True)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", pickle.dumps(Evil()))
        file.writestr("../../elsewhere/made", "x")


FORMATS = [pickled, saved_by_torch, saved_by_numpy, zipped]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("last.safetensors", "evaluate run"),
        ("config.toml", "evaluate run"),
        ("evaluation.json", "plot run"),
        ("metrics.jsonl", "plot run"),
    ],
)
def test_a_file_of_a_run(scene: Scene, write: Any, name: str, command: str) -> None:
    write(scene.run / name)
    assert main(command.split()) == 2


def test_a_damaged_evaluation_is_replaced(scene: Scene) -> None:
    pickled(scene.run / "evaluation.json")
    assert main(["evaluate", "run", "--episodes", "1"]) == 0


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_a_run_that_is_a_file(scene: Scene, write: Any) -> None:
    write(scene.here / "model.zip")
    with pytest.raises(UsageError, match="is no folder"):
        rmt_rl.load("model.zip")
    assert main(["collect", "tmaze", "--policy", "model.zip", "--episodes", "1"]) == 2
    assert main(["train", "--config", "model.zip"]) == 2


@pytest.mark.parametrize(
    "text",
    ['!!python/object/apply:os.system ["touch ran"]', "env: !!python/name:payload.Payload", "__import__('payload')"],
)
def test_a_config_in_another_language(scene: Scene, text: str) -> None:
    for name in ("config.toml", "evaluation.json"):
        (scene.run / name).write_text(text)
    assert main(["train", "--config", "run"]) == 2
    assert main(["plot", "run"]) == 2


@pytest.mark.parametrize(
    "value", ["__import__('payload')", "${payload}", "{payload.Payload}", "payload.Payload", "$(x)"]
)
@pytest.mark.parametrize("path", [("agent_options", "valve"), ("env_options", "corridor_length"), ("training", "clip")])
def test_a_value_that_is_an_expression(scene: Scene, path: tuple[str, ...], value: str) -> None:
    scene.in_config(*path, value=value)
    assert main(["train", "--config", "run", "--out", "again"]) == 2


CALLED = {"eval", "exec", "compile", "__import__", "load_env_creator", "import_module", "resolve_name"}
MAY_CALL = {
    "foreign_specs.py": {"load_env_creator"},  # of registered environments, and of wrappers of known packages
    "spec_repairs.py": {"load_env_creator"},  # of wrappers of known packages, and of modules that the user named
    "plugins.py": {"import_module"},  # of modules that the user named or that installed packages declare
    "runs/options.py": {"resolve_name"},  # of the learner that an agent's class names
    "__init__.py": {"import_module"},  # of a table of our own
    "acting/env_source.py": {"resolve_name"},  # `importlib.util`'s, which makes relative names absolute
    "envs/memory_maze.py": {"import_module"},  # of names in the file itself
}
UNPICKLING = {"pickle", "dill", "cloudpickle", "joblib", "yaml", "marshal", "shelve"}


def test_no_code_is_made_of_text() -> None:
    package = Path(rmt_rl.__file__).parent
    sources = [*package.rglob("*.py"), *(package / "envs").glob("*.py"), *(package / "agents").glob("*.py")]
    for path in sources:
        name = path.relative_to(package).as_posix()
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(torch|np|numpy)\.load\(", text), f"{name} loads what may be pickled"
        tree = ast.parse(text)
        called, imported = set(), set()
        for node in ast.walk(tree):
            match node:
                case ast.Call(args=[ast.Constant(), *_]):
                    pass  # of one name
                case ast.Call(func=ast.Name(id=function)):
                    called.add(function)
                case ast.Call(func=ast.Attribute(attr=function, value=ast.Name(id="importlib" | "builtins"))):
                    called.add(function)
                case ast.Import(names=names):
                    imported |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module)):
                    imported.add(module.partition(".")[0])
        assert called & CALLED <= MAY_CALL.get(name, set()), name
        assert not imported & UNPICKLING, name


PLANTED = (
    "torch",
    "safetensors",
    "h5py",
    "matplotlib",
    "lightning_fabric",
    "highway_env",
    "stable_baselines3",
    "wandb",
)


@pytest.mark.parametrize("how", ["module", pytest.param("path", marks=pytest.mark.slow)])
def test_a_process_that_starts_in_a_stranger_s_folder(scene: Scene, how: str) -> None:
    """`python -m` and an empty entry of PYTHONPATH put the current folder before all installed packages."""
    for name in PLANTED:
        (scene.here / f"{name}.py").write_text(PAYLOAD)
    info = scene.here / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\nplanted = payload:Payload\n")
    scene.in_config("env", value="highway_env:highway-v0")
    path = os.environ.get("PYTHONPATH", "")
    starts = {
        "module": ([sys.executable, "-m", "rmt_rl"], path),
        "path": ([str(Path(sys.executable).with_name("rmt-rl"))], f"{os.pathsep}{path}"),
    }
    command, pythonpath = starts[how]
    done = subprocess.run(
        [*command, "evaluate", "run", "--episodes", "1"],
        env=os.environ | {"PYTHONPATH": pythonpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "highway_env" in done.stderr
