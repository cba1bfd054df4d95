"""Ids of data sets: what changes them, and what leaves them alone."""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib import metadata as installed
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import pytest

from rmt_rl.acting import env_source, provenance
from rmt_rl.acting.code_text import without_prose
from rmt_rl.acting.env_source import origin_of
from rmt_rl.acting.provenance import dataset_id
from rmt_rl.errors import UsageError
from rmt_rl.registry import load_task
from rmt_rl.task import Task

ROOT = Path(__file__).parent.parent
NUMBERS = itertools.count()  # no two tests import modules of the same name
HELPER = "envs/helper.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def lab(folder: Path) -> Iterator[Path]:
    """A package of someone else, `labN.envs`, with helpers; N differs from test to test."""
    package = folder / f"lab{next(NUMBERS)}"
    (package / "envs").mkdir(parents=True)
    for name in ("__init__", "core", "envs/__init__", "envs/helper", "envs/deeper", "envs/apart"):
        (package / f"{name}.py").write_text("x = 1\n")
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


def task_of(lab: Path, source: str) -> Task:
    """Write the environment's module and import it."""
    (lab / "envs" / "maze.py").write_text(dedent(source).format(lab=lab.name))
    return cast("Task", import_module(f"{lab.name}.envs.maze"))


def source_hash(task: Task) -> str:
    return origin_of(task).source_sha256


@pytest.mark.parametrize(
    "source",
    [
        "import {lab}.envs.helper",
        "import {lab}.envs.helper as other",
        "from {lab}.envs.helper import x",
        "from {lab}.envs.helper import *",
        "from {lab}.envs import helper",
        "from {lab}.envs import (\n    apart,\n    helper as other,\n)",
        "from . import helper",
        "from .helper import x",
        "from ..envs import helper",
        "from ..envs.helper import x",
        "def make():\n    from . import helper",
        "try:\n    from . import helper\nexcept ImportError:\n    pass",
        "from importlib import import_module\n\nimport_module('{lab}.envs.helper')",
        "import importlib\n\nimportlib.import_module('.helper', __package__)",
        "__import__('{lab}.envs.helper')",
    ],
)
def test_a_helper_counts_in_whichever_form_it_is_imported(lab: Path, source: str) -> None:
    task = task_of(lab, source)
    before = source_hash(task)
    (lab / HELPER).write_text('"""Helps."""\n\nx = 1  # as before\n')
    assert source_hash(task) == before, "prose doesn't count"
    (lab / HELPER).write_text("x = 2\n")
    assert source_hash(task) != before


@pytest.mark.parametrize("changed", ["__init__.py", "envs/__init__.py", "core.py", HELPER, "envs/deeper.py"])
def test_modules_that_are_imported_indirectly_count(lab: Path, changed: str) -> None:
    (lab / HELPER).write_text("from .deeper import x\nfrom ..core import x as y\n")
    task = task_of(lab, "from . import helper")
    before = source_hash(task)
    with (lab / changed).open("a") as file:
        file.write("z = 3\n")
    assert source_hash(task) != before


def test_modules_that_are_not_imported_do_not_count(lab: Path) -> None:
    task = task_of(lab, "from . import helper")
    before = source_hash(task)
    (lab / "envs" / "apart.py").write_text("x = 2\n")
    (lab / "envs" / "new.py").write_text("x = 2\n")
    assert source_hash(task) == before


def test_no_module_is_run(lab: Path) -> None:
    (lab / HELPER).write_text("raise RuntimeError('run')\n")
    assert source_hash(task_of(lab, "def make():\n    from . import helper"))


def test_the_other_files_of_a_script_s_folder_count(folder: Path) -> None:
    script, helper = f"maze{next(NUMBERS)}", f"helper{next(NUMBERS)}"
    (folder / f"{helper}.py").write_text("x = 1\n")
    (folder / f"{script}.py").write_text(
        f"try:\n    from .{helper} import x\nexcept ImportError:\n    from {helper} import x\n"
    )
    task = cast("Task", import_module(script))
    before = source_hash(task)
    (folder / f"{helper}.py").write_text("x = 2\n")
    assert source_hash(task) != before


def test_a_task_may_be_a_class_or_its_object(lab: Path) -> None:
    module: Any = task_of(lab, "from . import helper\n\n\nclass Maze:\n    ID = 'Maze-v0'\n")
    assert origin_of(module) == origin_of(module.Maze) == origin_of(module.Maze())


def test_imported_packages_count_by_their_versions(lab: Path) -> None:
    task = task_of(lab, "import os\nimport numpy, PIL.Image\nimport pydantic\nfrom rmt_rl.config import Frozen\n")
    assert origin_of(task).packages == {name: installed.version(name) for name in ("gymnasium", "numpy", "pillow")}


def task_or_skip(name: str) -> Task:
    try:
        return load_task(name)
    except UsageError as error:  # an extra isn't installed, or a simulator can't draw here
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("tmaze", {"gymnasium", "numpy"}),
        ("atari", {"ale-py", "gymnasium", "numpy"}),
        ("memory_maze", {"dm-control", "gymnasium", "memory-maze", "mujoco", "numpy"}),
        ("minigrid_memory", {"gymnasium", "minigrid", "numpy"}),
        ("popgym", {"gymnasium", "mazelib", "numpy", "pillow", "popgym"}),
        ("vizdoom_two_colors", {"gymnasium", "numpy", "vizdoom"}),
    ],
)
def test_the_simulators_of_our_environments_are_found(name: str, packages: set[str]) -> None:
    assert set(origin_of(task_or_skip(name)).packages) == packages


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("CartPole-v1", {"gymnasium", "numpy"}),
        ("Hopper-v5", {"gymnasium", "mujoco", "numpy"}),
        ("ale_py:ALE/Pong-v5", {"ale-py", "gymnasium", "numpy"}),
        ("MiniGrid-Empty-5x5-v0", {"gymnasium", "minigrid", "numpy"}),
    ],
)
def test_the_simulators_of_environments_by_their_ids_are_found(name: str, packages: set[str]) -> None:
    origin = origin_of(task_or_skip(name))
    assert packages <= set(origin.packages)
    assert not {"torch", "jax", "matplotlib"} & set(origin.packages), "what Gymnasium has besides environments"


def test_an_environment_of_ours_is_the_same_by_its_gymnasium_id() -> None:
    assert origin_of(load_task("rmt_rl/TMaze-v0")) == origin_of(load_task("tmaze"))


@pytest.mark.parametrize("package", ["gymnasium", "numpy"])
def test_another_version_of_a_package_is_another_id(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        return "99.0" if name == package else installed.version(name)

    before = dataset_id("tmaze", {}, 4000, 0)
    monkeypatch.setattr(env_source, "version", version)
    assert dataset_id("tmaze", {}, 4000, 0) != before


def test_the_id_says_all_that_made_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = dataset_id("tmaze", {}, 4000, 0)
    assert identity.startswith("tmaze/expert-4000-seed0-")
    assert identity.endswith("-v0")
    assert dataset_id("tmaze", {"corridor_length": [1, 88]}, 4000, 0) == identity, "a default, spelt out"
    others = [dataset_id("tmaze", {"corridor_length": 5}, 4000, 0), dataset_id("tmaze", {}, 4000, 1)]
    monkeypatch.setattr(provenance, "LANES", 65)
    others.append(dataset_id("tmaze", {}, 4000, 0))
    assert len({identity, *others}) == 4


def printed(script: str, folder: Path, **environment: str) -> str:
    """Run a script in a process of its own, in this folder; return what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def test_ids_are_the_same_in_every_process_and_folder(tmp_path: Path) -> None:
    script = "from rmt_rl.acting.provenance import dataset_id; print(dataset_id('minigrid_memory', {}, 40, 7))"
    found = printed(script, tmp_path, PYTHONPATH=str(ROOT), PYTHONHASHSEED="5")
    assert found == dataset_id("minigrid_memory", {}, 40, 7)


def test_of_this_library_only_the_environments_modules_count(tmp_path: Path) -> None:
    for name in ("rmt_rl", "envs", "agents"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "from rmt_rl.acting.env_source import origin_of; from rmt_rl.registry import load_task;"
        "print(origin_of(load_task('tmaze')).source_sha256)"
    )

    def hash_with(file: str, line: str) -> str:
        with (tmp_path / file).open("a") as opened:
            opened.write(f"{line}\n")
        return printed(script, tmp_path, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1")

    before = source_hash(load_task("tmaze"))
    assert hash_with("envs/tmaze.py", "# a comment") == before
    assert hash_with("rmt_rl/config.py", "x = 1") == before
    assert hash_with("envs/popgym.py", "x = 1") == before
    assert hash_with("envs/_checks.py", "x = 1") != before


PROSE = '''\
#!/usr/bin/python
"""Module."""  # é


x = f"""{
  1
}

# kept {2!r:>{3}} é"""  # é

def f(): "doc"; y = "a # b"; return y  # é
class A:
    """Dé.

    doc"""; z = 3

    def g(self):
        "in " "parts"
        # whole line
        w = """

        # kept
        """
        return ("a"
                # between
                "b"), (f"a{x}"
                       # between
                       f"b"), "kept"
'''
CODE = '''\
x = f"""{
  1
}

# kept {2!r:>{3}} é"""
def f(): ; y = "a # b"; return y
class A:
; z = 3
    def g(self):
        w = """

        # kept
        """
        return ("a"
                "b"), (f"a{x}"
                       f"b"), "kept"'''


def test_prose_is_cut_out_and_code_is_kept_as_it_is() -> None:
    assert without_prose(PROSE, ast.parse(PROSE)) == CODE
