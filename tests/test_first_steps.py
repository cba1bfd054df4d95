"""The commands and the Python of the pages for beginners run as they stand, and so do the notebooks, in small form."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

from rmt_rl.cli import main

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALLER = {  # numbers of the pages and notebooks, which are then quick
    r"(updates[ =])\d+": r"\g<1>2",
    r"(collect[-_]episodes[ =])\d+": r"\g<1>16",
    r"(\bepisodes[ =])\d+": r"\g<1>5",
    r"(--learner ppo.*) --total-timesteps \d+": r"\1",
    "--learner ppo": "--learner ppo --total-timesteps=32 --n-envs 2 --n-steps 16 --batch-size 16",
    r"(total-timesteps )\d+": r"\g<1>32 --n-envs 2 --agent.n-steps 16 --agent.batch-size 16",
    r"(corridor_length=)[\d,]{3,}": r"\g<1>30",
    r"(inspect \S+)": r"\1 --segments 4 --episodes 4 --memories 2",
    r"(--dataset ID rate)": r"\1 --updates 2 --eval-episodes 2",
    r"(train \S+ (?:rate|dt|ppo|recurrent_ppo|gtrxl|dlstm) )": r"\1--eval-episodes 2 ",
    r"_DATA = \d+": "_DATA = 24",
    r"(UPDATES|TEST_EPISODES) = \d+": r"\1 = 2",
    r"\((24, )?100, 400\)": "(24,)",
    r"lengths = .*": "lengths = [28, 30]",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new current folder, in which data sets are kept too. What a notebook changes in the process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    yield tmp_path
    sys.modules.pop("lights", None)


def notebook(path: Path) -> Any:
    """Return a notebook as nbformat's values, which have no types."""
    reader: Any = nbformat
    return reader.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    """Return a notebook's cells of code."""
    return [cell for cell in notebook(path).cells if cell.cell_type == "code"]


def smaller(text: str) -> str:
    """Return commands or code with numbers that make it quick."""
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    return text


def run_page(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run a page's commands, then its Python; return the lines that they print."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    shown, made = "", ""
    for line in re.findall(r"^    rmt-rl ([^#\n]*)", page, re.MULTILINE):
        words = [made if word == "ID" else word for word in smaller(line).split()]
        assert main(words) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        shown += printed
        made = printed.split()[-1] if words[0] == "collect" else made
    code = smaller("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    exec(code, {})
    return (shown + capsys.readouterr().out).splitlines()


def test_getting_started(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *shown, steps, result = run_page("getting_started.md", capsys)
    assert any("corridor_length" in line for line in shown)
    assert re.fullmatch(r"\d+ (True|False)", steps)
    assert re.fullmatch(r"\d\.\d+ \(.*\)", result)
    assert (folder / "curves.png").exists()
    names = ["config.toml", "metrics.jsonl", "last.safetensors", "evaluation.json", "inspection.json"]
    page = (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page and (folder / "runs" / "rate" / name).exists() for name in names)


def test_learning_by_acting(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page("online.md", capsys)
    assert (folder / "ppo.png").exists()
    assert (folder / "runs" / "cartpole-0" / "last.safetensors").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    new_shell: Any = InteractiveShell
    shell = new_shell()
    for cell in code_cells(path):
        shell.run_cell(smaller(cell.source)).raise_error()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_in_full_in_a_kernel(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done: Any = NotebookClient(notebook(path), timeout=900).execute()
    assert all(output.output_type != "error" for cell in done.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_show_the_results_of_their_code(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
