"""Sweeps whose runs are kept at a URL: the same runs as in a folder, leases, and a cell that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from rmt_rl import remote, signals
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.remote import RemoteFolder
from rmt_rl.sweeps import lease
from rmt_rl.sweeps.engine import Job
from rmt_rl.sweeps.lease import Lease, LeaseLost, holder_at, leased
from rmt_rl.sweeps.matrix import SweepConfig, cells_of, read_sweep
from rmt_rl.sweeps.process import CellProcess
from rmt_rl.sweeps.run import job_of
from rmt_rl.sweeps.stored import StoredRun, local
from tests.servers import ftp_server
from tests.test_sweep import HERE, SWEEP
from tests.tiny import assert_same_run, metrics, work_folder

RUN = "tmaze-bc-0"
EVALUATED = ("--train", "eval-every=2", "eval-episodes=1", "save-every=2")
LONG = {"updates": 300, "save_every": 20, "eval_every": 100, "eval_episodes": 2}
SEARCH = """
[search]
trials = 1
metric = "train/loss"
direction = "minimize"

[search.options]
learning-rate = { low = 1e-4, high = 1e-2, log = true }
"""


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        Path("sweep.toml").write_text(SWEEP)
        yield folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0.1)
    monkeypatch.setattr(remote, "PAUSES", (0.01,))


def sweep(*arguments: str) -> int:
    return main(["sweep", "sweep.toml", "--engine", HERE, *arguments])


def fetched(url: str, name: str) -> Path:
    """Return a local copy of a run."""
    assert main(["fetch", f"{url}/{RUN}", "--out", name]) == 0
    return Path(name)


def long_job(**options: str) -> Job:
    """Return the job of a long run, with these options of the sweep."""
    values = read_sweep(Path("sweep.toml"))
    values["train"] |= LONG
    config = validated(SweepConfig, values | options)
    (cell,) = cells_of(config)
    return job_of(cell, config)


def test_runs_at_a_url_are_those_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    url = "memory://bucket/sweep"
    vary = ("--vary", "corridor_length=2,3", "--episodes", "2")
    assert sweep(*EVALUATED, *vary, "--out", "plain") == 0
    stored = (*EVALUATED, *vary, "--store", url)
    assert sweep(*stored, "--out", "one") == 0
    assert_same_run(fetched(url, "got"), Path("plain", RUN))
    assert sorted(path.name for path in Path("one", RUN).iterdir()) == [
        "config.toml",
        "cpu.json",
        "evaluation.json",
        "last.json",
        "metrics.jsonl",
    ]
    capsys.readouterr()
    assert sweep(*stored, "--out", "two") == 0, "on another machine"
    assert capsys.readouterr().out == f"[1/1] finished before: two/{RUN}\n"
    assert metrics(Path("two", RUN)) == metrics(Path("plain", RUN))
    assert sweep(*stored, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{url}/{RUN}"

    folder = RemoteFolder(url)
    assert not [name for name in folder.files() if name.endswith(("lock", ".part"))]
    for name in folder.files():
        folder.remove(name)
    assert sweep(*stored, "--out", "two") == 2
    assert f"{url} holds no runs, but two holds copies of runs from there" in capsys.readouterr().err
    assert metrics(Path("two", RUN)) == metrics(Path("plain", RUN))
    shutil.rmtree("two")
    assert sweep(*stored, "--out", "two") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"[1/1] finished: two/{RUN}")


def test_copies_are_of_one_url(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert sweep("--recipe", "none", *arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert sweep("--recipe", "none", "--store", "memory://b/first", "--out", "copies") == 0
    assert sweep("--recipe", "none", "--out", "own") == 0
    capsys.readouterr()
    assert "copies holds copies of the runs at memory://b/first" in refused("--out", "copies")
    assert "copies holds copies" in refused("--out", "copies", "--store", "memory://b/second")
    assert "own holds runs of its own" in refused("--out", "own", "--store", "memory://b/second")
    assert "holds a run with training.updates=4" in refused(
        "--out", "copies", "--store", "memory://b/first", "--train", "updates=5"
    )
    assert "out=s3:/bucket/lr is a URL; give it as `store` (--store)" in refused("--out", "s3://bucket/lr")
    assert "'runs/lr' is no URL of a folder" in refused("--store", "runs/lr")
    for engine in ("local", "slurm"):
        error = refused("--store", "memory://b/second", "--engine", engine)
        assert f"store=memory://b/second is the memory of one process, but engine='{engine}' starts" in error
    assert "fsspec knows no protocol" in refused("--store", "s4://bucket")
    assert RemoteFolder("memory://b/second").files() == {}


def test_a_killed_cell_goes_on_elsewhere_as_if_nothing_had_happened() -> None:
    assert sweep("--train", *(f"{name}={value}" for name, value in LONG.items()), "--out", "whole") == 0
    Path("served").mkdir()
    with ftp_server(Path("served").absolute()) as url:
        store = RemoteFolder(url)
        process = CellProcess(long_job(store=url, scratch="node"))
        while not store.files(RUN).keys() >= {f"{RUN}/last.safetensors"}:
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(process.number, signal.SIGKILL)
        outcome = process.wait()
        assert outcome.status == 128 + signal.SIGKILL
        assert list(Path("node").iterdir()) == []
        log = store.read(f".sweep/{RUN}.log")
        assert log is not None
        assert log.startswith(b"$ rmt-rl train")
        store.write(f"{RUN}/.last.safetensors.0.part", b"as an upload leaves it that is killed")
        before = metrics(fetched(url, "killed"))
        assert before[-1]["update"] < LONG["updates"]

        arguments = [f"{name}={value}" for name, value in LONG.items()]
        assert sweep("--train", *arguments, "--store", url, "--out", "resumed") == 0
        assert_same_run(fetched(url, "ended"), Path("whole", RUN))
        assert not [name for name in store.files() if name.endswith((".part", "lock"))]
        assert "secret" not in Path("resumed", ".sweep", "store").read_text()


def test_a_process_that_another_replaced_writes_nothing_more() -> None:
    url = f"file://{Path('taken').absolute()}"
    first, second = (StoredRun(local(long_job(store=url), Path(name).absolute())) for name in ("first", "second"))
    first.fetch()
    for name in ("config.toml", "metrics.jsonl", "last.safetensors"):
        first.job.run.mkdir(parents=True, exist_ok=True)
        (first.job.run / name).write_bytes(b"old")
    (first.job.run / ".lock").touch()
    first.put()
    run = Path("taken", RUN)
    written = sorted(run.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in written][-1] == "last.safetensors"
    second.fetch()
    assert (second.job.run / "last.safetensors").read_bytes() == b"old"
    (first.job.run / "last.safetensors").write_bytes(b"other")
    with pytest.raises(LeaseLost, match=f"process {os.getpid()} on .* has taken over; this one stops"):
        first.put()
    assert (run / "last.safetensors").read_bytes() == b"old"
    (second.job.run / "metrics.jsonl").unlink()
    second.put()
    second.finish()
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "last.safetensors"]
    assert not second.job.run.exists()


def test_a_checkpoint_is_never_newer_than_the_files_beside_it() -> None:
    url = f"file://{Path('busy').absolute()}"
    stored = StoredRun(local(long_job(store=url), Path("busy-here").absolute()))
    stored.fetch()
    names = ("metrics.jsonl", "best.safetensors", "last.safetensors")  # in the order of saving
    done = threading.Event()

    def save() -> None:
        for update in count():
            for name in names:
                write_atomically(stored.job.run / name, b"%d" % update)
            if done.is_set():
                return

    def put() -> None:
        while not done.is_set():
            stored.put()

    threads = [threading.Thread(target=target) for target in (save, put)]
    for thread in threads:
        thread.start()
    other = RemoteFolder(url)
    seen: set[int] = set()
    began = time.monotonic()
    try:
        while len(seen) < 20 and time.monotonic() < began + 60:
            found = [other.read(f"{RUN}/{name}") for name in reversed(names)]  # as a cell is fetched
            last, *others = [int(content or b"-1") for content in found]
            assert last <= min(others)
            seen.add(last)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    stored.finish()
    assert len(set(stored.folder.read_all([f"{RUN}/{name}" for name in names]).values())) == 1


def test_one_sweep_works_at_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    url = "memory://leases"
    name = ".sweep/lock"
    folder = RemoteFolder(url)
    with leased(url, name):
        assert sweep("--store", url, "--out", "leases") == 2
        *_, error = capsys.readouterr().err.splitlines()
        assert f"{url} is in use by a sweep, process {os.getpid()} on " in error
    assert folder.read(name) is None
    Lease(folder, name).take()  # by a sweep that is killed now
    with leased(url, name):
        holder = holder_at(folder, name)
        assert holder is not None
        assert holder.process == os.getpid()

    def lose() -> None:
        with signals.heard(), leased(url, name):
            Lease(folder, name).take()  # as two sweeps do that start at the same moment
            time.sleep(60)

    with pytest.raises(signals.Stopped):
        lose()
    assert folder.read(name) is not None, "it belongs to the other"


def test_a_search_keeps_its_journal_at_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    Path("search.toml").write_text(SWEEP + SEARCH)

    def search(trials: int, out: str) -> list[str]:
        arguments = ["--search", str(trials), "--engine", HERE, "--store", "memory://search", "--out", out]
        assert main(["sweep", "search.toml", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line.split("  ")[0] for line in lines if line.startswith(("[", "best"))]

    first, best = search(1, "found")
    assert first == "[1/1] finished: found/tmaze-bc-trial0-0"
    assert best.startswith("best of 1: trial 0")
    second, best = search(2, "elsewhere")
    assert second == "[1/2] finished: elsewhere/tmaze-bc-trial1-0"
    assert best.startswith("best of 2: trial ")


def test_storage_that_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert sweep("--recipe", "none", "--store", f"file://{Path('file').absolute()}/below", "--out", "nowhere") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "can't be" in error
    assert not Path("nowhere").exists()
    with pytest.raises(UsageError, match="can't be written to"):
        RemoteFolder("data://x").write("name", b"")
