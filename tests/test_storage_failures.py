"""Storage that fails, by a file system of fsspec whose operations raise the errors that real storage raises."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rmt_rl import remote
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.remote import RemoteFolder
from rmt_rl.sweeps import lease, mirror, stored
from rmt_rl.sweeps.engine import Job, Outcome
from rmt_rl.sweeps.lease import LeaseTaken, leased
from rmt_rl.sweeps.matrix import SweepConfig
from rmt_rl.sweeps.mirror import Mirror, MirroredReport
from rmt_rl.sweeps.stored import StoredRun, local
from rmt_rl.sweeps.stored import stored as kept_at_url

URL = "failing://bucket/lr"
CELL = "tmaze-bc-0"


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory; operations raise what `errors` holds under their names, as often as it is there."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    errors: ClassVar[dict[str, list[Exception]]] = {}
    connections = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        type(self).connections += 1
        self._fail("connect")

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self._fail("write")
        super().pipe_file(path, value, **options)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._fail("put")
        super().put_file(lpath, rpath, **options)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self._fail("get")
        super().get_file(rpath, lpath, **options)

    def find(self, path: str, **options: Any) -> Any:
        self._fail("find")
        return super().find(path, **options)

    def _fail(self, operation: str) -> None:
        waiting = self.errors.get(operation)
        if waiting:
            raise waiting.pop(0)


fsspec.register_implementation("failing", f"{__name__}.FailingFileSystem", clobber=True)


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, list[Exception]]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "PAUSES", (0.001, 0.001))
    monkeypatch.setattr(lease, "RENEWAL", 0.01)
    monkeypatch.setattr(stored, "LOOK", 0.01)
    FailingFileSystem.errors.clear()
    FailingFileSystem.store.clear()
    FailingFileSystem.clear_instance_cache()
    yield FailingFileSystem.errors
    FailingFileSystem.errors.clear()


def job() -> Job:
    """Return a job in the local folder `home`."""
    plain = Job(name=CELL, run=Path("x"), config={}, folder=Path.cwd(), log=Path("x.log"), store=URL)
    return local(plain, Path("home").absolute())


def begun() -> StoredRun:
    """Return a run with a checkpoint that isn't at the URL yet."""
    run = StoredRun(job())
    run.fetch()
    write_checkpoint(run.job, b"work")
    return run


def write_checkpoint(job: Job, content: bytes) -> None:
    job.run.mkdir(parents=True, exist_ok=True)
    (job.run / "last.safetensors").write_bytes(content)


def until(holds: Callable[[], object]) -> None:
    latest = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.005)


def no_bucket() -> Exception:
    return FileNotFoundError("The specified bucket does not exist")


def test_a_missing_bucket_is_one_line(storage: dict[str, list[Exception]], tmp_path: Path) -> None:
    folder = RemoteFolder(URL)
    source = tmp_path / "source"
    source.touch()
    storage["write"] = [no_bucket() for _ in range(3)]
    storage["put"] = [no_bucket() for _ in range(3)]
    with pytest.raises(UsageError, match=r"failing://bucket/lr can't be written to \(FileNotFoundError: The specified"):
        folder.write("a", b"")
    with pytest.raises(UsageError, match="can't be written to"):
        folder.put("a", source)


@pytest.mark.parametrize("error", [no_bucket(), PermissionError("ExpiredToken"), OSError("reset")])
def test_work_that_cannot_be_put_is_kept(storage: dict[str, list[Exception]], error: Exception) -> None:
    run = begun()
    storage["put"] = [error] * 3
    with pytest.raises(UsageError, match=r"is kept: failing://bucket/lr can't be written to") as raised:
        run.finish()
    shutil.rmtree("home")  # as the process that started this one does
    (kept,) = Path().glob("rmt-rl-kept-*")
    assert f"run {(kept / CELL).absolute()} on " in str(raised.value)
    assert (kept / CELL / "last.safetensors").read_bytes() == b"work"


def test_a_run_that_another_process_took_is_not_kept() -> None:
    run = begun()
    StoredRun(job()).lease.take()
    with pytest.raises(LeaseTaken):
        run.finish()
    assert not run.job.run.exists()
    assert list(Path().glob("rmt-rl-kept-*")) == []


def test_new_credentials_and_a_server_that_comes_back_are_enough(storage: dict[str, list[Exception]]) -> None:
    folder = RemoteFolder(URL)
    before = FailingFileSystem.connections
    storage["write"] = [PermissionError("ExpiredToken")]
    folder.write("a", b"1")
    assert FailingFileSystem.connections == before + 1
    storage["write"] = [OSError("reset")]
    storage["connect"] = [ConnectionRefusedError("down")]
    folder.write("a", b"2")
    assert folder.read("a") == b"2"


def test_uploads_and_renewals_survive_any_error(
    storage: dict[str, list[Exception]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put, failures = StoredRun.put, [RuntimeError("unforeseen")] * 3

    def failing(run: StoredRun) -> None:
        if failures:
            raise failures.pop()
        put(run)

    monkeypatch.setattr(StoredRun, "put", failing)
    with kept_at_url(job()):
        write_checkpoint(job(), b"work")
        until(lambda: RemoteFolder(URL).read(f"{CELL}/last.safetensors") == b"work")
    assert capsys.readouterr().err == "unforeseen; trying again\n"

    folder = RemoteFolder(URL)
    folder.write(".sweep/.lock.0.part", b"of a sweep that was killed")
    with leased(URL, ".sweep/lock"):
        assert [name for name in folder.files(".sweep") if name.endswith(".part")] == []
        before = folder.read(".sweep/lock")
        storage["write"] = [no_bucket() for _ in range(6)]
        until(lambda: not storage["write"] and folder.read(".sweep/lock") != before)
    assert capsys.readouterr().err.count("trying again") == 1


class Silent:
    def __init__(self) -> None:
        self.names: list[str] = []

    def kept(self, job: Job) -> None: ...

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.names.append(job.name)

    def under_way(self, running: set[str]) -> None: ...


def test_storage_that_fails_when_a_cell_ends_stops_no_sweep(
    storage: dict[str, list[Exception]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_WAITS", (0.001,) * 3)
    copies = Mirror(RemoteFolder(URL), Path("out"))
    copies.folder.write(f"{CELL}/metrics.jsonl", b"{}\n")
    inner = Silent()
    report = MirroredReport(inner, copies)
    storage["find"] = [OSError("reset") for _ in range(6)]
    report.ended(job(), Outcome(CELL, 0))
    assert inner.names == [CELL]
    assert not Path("out", CELL).exists()
    copies.catch_up()  # before a search reads the metrics; the second attempt of those that it waits for
    assert Path("out", CELL, "metrics.jsonl").read_bytes() == b"{}\n"

    Path("out", ".sweep").mkdir()
    Path("out", ".sweep", "journal").write_bytes(b"trial")
    storage["put"] = [OSError("reset") for _ in range(4)]
    copies.keep("journal")
    assert copies.folder.read(".sweep/journal") == b"trial"


def test_a_fetch_that_is_broken_off_leaves_nothing(
    storage: dict[str, list[Exception]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RemoteFolder(URL)
    for name in ("config.toml", "last.safetensors"):
        folder.write(f"{CELL}/{name}", name.encode())
    storage["get"] = [no_bucket() for _ in range(3)]
    Path("runs", ".lr.part", "old").mkdir(parents=True)  # of a fetch that was killed
    assert main(["fetch", URL]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(Path("runs").iterdir()) == []
    assert main(["fetch", URL]) == 0
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    files.sort(key=lambda path: path.stat().st_mtime_ns)
    assert [str(path) for path in files] == [f"runs/lr/{CELL}/last.safetensors", f"runs/lr/{CELL}/config.toml"]


def test_passwords_are_not_shown() -> None:
    for values in ({"out": "ftp://u:s/e@cret@h/x"}, {"store": "FTP://u:s/e@cret@h/x"}, {"stor": "ftp://u:s/e@cret@h"}):
        with pytest.raises(UsageError) as raised:
            validated(SweepConfig, {"envs": ["tmaze"], "agents": ["bc"], **values})
        assert "u:***@h" in str(raised.value)
        assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "tmaze", "bc", "--recipe", "none", "--out", "s3://u:secret@b/run"],
        ["sweep", "--envs", "tmaze", "--agents", "bc", "--out", "s3://u:secret@b/run"],
        ["plot", "run", "--out", "s3://u:secret@b/a.png"],
        ["fetch", f"{URL}/none", "--out", "s3://u:secret@b/run"],
    ],
)
def test_an_output_at_a_url_is_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "secret" not in error
    assert not list(Path().glob("s3*"))


def test_a_dry_run_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--envs", "tmaze", "--agents", "bc", "--store", "ftp://u:secret@h/x", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"ftp://u:***@h/x/{CELL}\n"
