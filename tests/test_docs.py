"""The Python of README.md and the examples and commands of docs/extending.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SMALL = {  # options behind the page's commands, which are then quick
    "train": "--updates 2 --collect-episodes 16 --batch-size 4 --eval-episodes 2 --accelerator cpu --agent.width 16",
    "evaluate": "--episodes 2",
    "import": "--reference-episodes 0",
}
RUN_EACH = "import sys; from rmt_rl.cli import main; sys.exit(any([main(line.split()) for line in sys.argv[1:]]))"
MECHANISM = """
import torch
from mylab.fading import Fading
from rmt_rl import RecurrentMemoryTransformer
from tests.nn.compositions import every_check, fulfils

for check in every_check.args[1]:
    for core in Fading.examples(8):
        fulfils(check, core)
model = RecurrentMemoryTransformer(dim=16, num_tokens=9, depth=1, num_memory_tokens=0, seq_len=4, memory="fading")
assert model(torch.zeros(2, 4, dtype=torch.long)).memories.shape == (2, 16)
"""


def page_commands() -> list[str]:
    """Return the arguments of every `rmt-rl` command on the page, with options that make it quick."""
    lines = re.findall(r"^    rmt-rl ([^#\n]*)", PAGE, re.MULTILINE)
    return [f"{line} {SMALL.get(line.split()[0], '')}" for line in lines]


def run(folder: Path, code: str, *lines: str, installed: Path | None = None) -> str:
    """Run Python code with arguments in a folder, with what another folder has installed; return what it prints."""
    path = [str(each) for each in (ROOT, installed) if each]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    environment["MINARI_DATASETS_PATH"] = str(folder / "data")
    command = [sys.executable, "-c", code, *lines]
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def laboratory(tmp_path: Path) -> Path:
    """A folder with the page's package `mylab`."""
    for name, text in re.findall(r"```python\n# (mylab/\S+)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def declare_entry_points(laboratory: Path) -> None:
    """Make the folder look like an installed distribution with the entry points of the page."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    groups = tomllib.loads(text)["project"]["entry-points"]
    metadata = laboratory / "mylab-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    sections = [
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
        for group, points in groups.items()
    ]
    (metadata / "entry_points.txt").write_text("\n\n".join(sections))


def test_objects_of_the_current_folder_are_named_as_module_and_name(laboratory: Path) -> None:
    commands = [line for line in page_commands() if "mylab." in line]
    named = [line.split()[0] for line in commands]
    assert named == ["train", "evaluate", "mylab.commands:hello", "train", "evaluate", "import", "train"]
    logs: dict[str, Any] = {"sensors": np.zeros((4, 3)), "torques": np.zeros(4)}
    logs |= {"score": np.ones(4), "fell": np.zeros(4)}
    (laboratory / "logs").mkdir()
    np.savez(laboratory / "logs" / "0.npz", **logs)
    watched = f"train mylab.maze:Maze mylab.watched:WatchedMine {SMALL['train']} --out runs/watched"
    shown = run(laboratory, RUN_EACH, *commands, watched, "collect mylab.maze:Corridor --policy random --episodes 2")
    assert "hello you" in shown
    assert len((laboratory / "runs/mine/loss.txt").read_text().splitlines()) == 1
    assert "train/weight_norm" in (laboratory / "runs/watched/metrics.jsonl").read_text()


def test_entry_points_give_names(laboratory: Path) -> None:
    declare_entry_points(laboratory)
    commands = [line for line in page_commands() if "mylab." not in line]
    assert [line.split()[0] for line in commands] == ["list", "train"]
    commands += ["hello you", "evaluate runs/maze-mine-0 --episodes 2"]
    shown = run(laboratory / "elsewhere", RUN_EACH, *commands, installed=laboratory)
    assert len(re.findall(r"\(mylab\)$", shown, re.MULTILINE)) == 8
    assert "hello you" in shown


def test_the_memory_mechanism_passes_the_contract_tests(laboratory: Path) -> None:
    declare_entry_points(laboratory)
    run(laboratory / "elsewhere", MECHANISM, installed=laboratory)


@pytest.mark.slow
def test_the_python_of_the_readme_trains_evaluates_and_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shown = run(tmp_path, "\n".join(blocks)).splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["28", "300", "900"]
    assert len(shown) == 4
