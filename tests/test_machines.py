"""What machines differ in: homes, read-only folders, encodings of the terminal, settings of Matplotlib."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import matplotlib
import pytest

from rmt_rl.cli import main
from rmt_rl.runs.evaluation import read_results
from rmt_rl.training.loop import train
from tests.tiny import in_process, tiny, work_folder

RUN = Path("läufe ✓", "[/red] a")
NEW_NAMESPACE, BIND, REMOUNT, READ_ONLY, RECURSIVE, PRIVATE = 0x20000, 4096, 32, 1, 16384, 1 << 18  # Linux's
NOT_ALLOWED = 77


@pytest.fixture(autouse=True, scope="module")
def _work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with work_folder(tmp_path_factory):
        train(tiny(updates=1), RUN)
        assert main(["evaluate", str(RUN), "--episodes", "3"]) == 0
        yield


def test_evaluation_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", "/proc/none")
    assert main(["evaluate", str(RUN), "--episodes", "2"]) == 0


def test_results_are_written_elsewhere_and_read_like_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    results = (RUN / "evaluation.json").read_bytes()
    evaluate = ["evaluate", str(RUN), "--episodes", "2", "--out", "elsewhere"]
    assert main(evaluate) == 0
    assert main([*evaluate, "--vary", "corridor_length=3"]) == 0
    assert [result["options"] for result in read_results(Path("elsewhere"))] == [{}, {"corridor_length": 3}]
    assert (RUN / "evaluation.json").read_bytes() == results
    assert main(["plot", "elsewhere", "--out", "elsewhere.png"]) == 0
    train(tiny(updates=1, run={"seed": 1}), Path("other"))
    capsys.readouterr()
    for folder in ("elsewhere", str(RUN)):
        assert main(["evaluate", "other", "--out", folder]) == 2
        assert f"out={folder} holds another run or its results" in capsys.readouterr().err


def test_a_run_that_can_not_be_written_to_is_evaluated_and_inspected_with_out() -> None:
    shutil.copytree(RUN, "fixed")
    status = in_process(_use_read_only, "fixed", str(Path.cwd()))
    if status == NOT_ALLOWED:
        pytest.skip("only root may mount a folder read-only")
    assert status == 0
    assert read_results(Path("beside"))[0]["episodes"]
    assert Path("beside", "inspection.json").exists()


def _use_read_only(run: str, folder: str) -> None:
    """Evaluate and inspect a run that is mounted read-only for this process alone."""
    os.chdir(folder)
    libc = ctypes.CDLL(None)
    path = run.encode()
    failed = (
        libc.unshare(NEW_NAMESPACE)
        or libc.mount(None, b"/", None, RECURSIVE | PRIVATE, None)
        or libc.mount(path, path, None, BIND, None)
        or libc.mount(None, path, None, BIND | REMOUNT | READ_ONLY, None)
    )
    if failed:
        sys.exit(NOT_ALLOWED)
    for command in (["evaluate", run, "--episodes", "2"], ["inspect", run, "--episodes", "2", "--segments", "3"]):
        with redirect_stderr(io.StringIO()) as complaint:
            assert main(command) == 2
        assert "fixed can't be written to (Read-only file system); name another folder" in complaint.getvalue()
        assert "--out" in complaint.getvalue()
        assert main([*command, "--out", "beside"]) == 0


@pytest.mark.parametrize(
    ("encoding", "interval", "name"),
    [("ascii", b" +- ", rb"p\xfc \u2713.png"), ("cp1252", b" \xb1 ", b"p\xfc \\u2713.png"), ("utf-8", None, None)],
)
def test_output_needs_no_encoding(
    encoding: str, interval: bytes | None, name: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding=encoding, write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert main(["plot", str(RUN), "--out", "pü ✓.png"]) == 0
        assert main(["flops"]) == 0
    assert (interval or " ± ".encode()) in written.getvalue()
    assert (name or "pü ✓.png".encode()) in written.getvalue()


def test_a_file_name_that_is_no_text_is_printed_in_ascii_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="utf-8", write_through=True)
    name = os.fsdecode(b"\xff.png")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert main(["plot", str(RUN), "--out", name]) == 0
    assert written.getvalue().endswith(b"\\udcff.png\n")
    assert main(["train", "tmaze", "bc", "--out", name]) == 2
    assert r"path '\udcff.png' isn't text in this locale; choose another name" in capsys.readouterr().err


def test_a_notebooks_backend_does_not_matter() -> None:
    """Matplotlib refuses to be imported with a backend that isn't installed here."""
    code = "import experiments, matplotlib.figure"
    variables = os.environ | {"MPLBACKEND": "a notebook's", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_the_users_style_does_not_matter() -> None:
    assert main(["plot", str(RUN), "--out", "default.png"]) == 0
    with matplotlib.rc_context({"text.usetex": True, "font.family": "an absent font", "axes.linewidth": 20}):
        assert main(["plot", str(RUN), "--out", "styled.png"]) == 0
    assert Path("styled.png").read_bytes() == Path("default.png").read_bytes()
