"""Copies of this tree, wheels, and an environment of its own in which wheels are installed; all without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
Done = subprocess.CompletedProcess[str]
Part = str | Path


def copy_tree(target: Path) -> Path:
    """Copy what a wheel of this tree is built from into a new folder, with the links to `envs` and `agents`."""
    target.mkdir()
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, target)
    for name in ["rmt_rl", "envs", "agents"]:
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a source tree and return its path in `folder`, which is made."""
    run([sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source])
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment with wheels, and below them what this environment has, but not its editable install.

    Args:
        folder: where to make it; commands run in its folder `work`, with data sets of their own.
        wheels: what is installed.
    """

    def __init__(self, folder: Path, *wheels: Path) -> None:
        venv.create(folder / "env", symlinks=True)
        self.bin = folder / "env" / "bin"
        self.work = folder / "work"
        self.work.mkdir()
        self.variables = {"OMP_NUM_THREADS": "1", "MINARI_DATASETS_PATH": str(folder / "data")}
        run([sys.executable, *PIP, "--python", self.bin / "python", "install", "--no-deps", "--no-index", *wheels])
        (site,) = folder.glob("env/lib/python*/site-packages")
        packages = [path for path in sys.path if path.endswith("site-packages")]
        (site / "packages.pth").write_text("\n".join(packages))  # a plain path, whose own .pth files aren't read

    def __call__(self, program: str, *arguments: Part, cwd: Path | None = None) -> Done:
        """Run a program of the environment and return its output; fails unless its exit status is 0."""
        return run([self.bin / program, *arguments], cwd or self.work, self.variables)


def run(command: Sequence[Part], cwd: Path = ROOT, variables: Mapping[str, str] | None = None) -> Done:
    """Run a command, without the caller's PYTHONPATH, and return its output; fails unless its exit status is 0."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env={**inherited, **(variables or {})}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done
