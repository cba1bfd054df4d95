"""Folders at URLs: in memory, on disk, and on real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.remote import RemoteFolder
from tests.servers import ftp_server, s3_server


@pytest.fixture(params=["memory", "file", "ftp", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    served = tmp_path / "served"
    served.mkdir()
    if request.param == "ftp":
        with ftp_server(served) as url:
            yield url
    elif request.param == "s3":
        with s3_server(monkeypatch) as url:
            yield url
    else:
        yield {"memory": f"memory://{tmp_path.name}/store", "file": f"file://{served}/store"}[request.param]


def test_files_are_written_read_listed_and_removed(url: str, tmp_path: Path) -> None:
    folder = RemoteFolder(url)
    assert folder.files() == {}
    assert folder.read("run/none") is None
    folder.remove("run/none")

    source = tmp_path / "source"
    source.write_bytes(os.urandom(300_000))
    folder.write("run/a.json", b"first")
    folder.put("run/deep/b", source)
    before = folder.files()
    assert sorted(before) == ["run/a.json", "run/deep/b"]
    assert sorted(folder.files("run/deep")) == ["run/deep/b"]
    folder.write("run/a.json", b"the second")
    other = RemoteFolder(url)
    after = other.files()
    assert sorted(after) == sorted(before)
    assert after["run/a.json"] != before["run/a.json"]
    assert after["run/deep/b"] == before["run/deep/b"]

    assert other.read_all(["run/a.json", "run/none", "run/deep/b"], 4, [10, 10, 10]) == {
        "run/a.json": b"second",
        "run/deep/b": source.read_bytes()[4:10],
    }
    other.get("run/deep/b", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == source.read_bytes()
    other.remove("run/a.json")
    assert sorted(folder.files()) == ["run/deep/b"]


def test_a_folder_is_fetched_and_nothing_leads_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"memory://{tmp_path.name}"
    folder = RemoteFolder(f"{url}/lr")
    for name in ("one/config.toml", "one/.lock", "one/.a.part", ".sweep/one.log", "one/a\\..\\b", "one/c:d"):
        folder.write(name, b"x")
    assert not {"one/a\\..\\b", "one/c:d"} & folder.files().keys()
    assert main(["fetch", f"{url}/lr"]) == 0
    assert [str(path) for path in Path().rglob("*") if path.is_file()] == ["runs/lr/one/config.toml"]
    assert main(["fetch", f"{url}/lr"]) == 2
    assert "out=runs/lr exists already" in capsys.readouterr().err
    assert main(["fetch", f"{url}/none"]) == 2
    assert "holds no files" in capsys.readouterr().err
    for command in ("plot", "evaluate", "inspect"):
        assert main([command, f"{url}/lr/one"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "is at a URL; fetch it into a local folder first: rmt-rl fetch URL --out RUN" in error


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("runs/lr", "'runs/lr' is no URL of a folder"),
        ("S3://bucket/lr", "'S3://bucket/lr' is no URL of a folder"),
        ("FTP://me:secret@h/x", "'FTP://me:***@h/x' is no URL of a folder"),
        ("ftp://me:sec/ret@h/x", "ftp://me:***@h/x can't be reached (ValueError)"),
        ("ftp://me@corp:p@secret@127.0.0.1:1/x", "ftp://me@corp:***@127.0.0.1:1/x can't be reached"),
        ("os:system://x", "'os:system://x' is no URL of a folder"),
        ("mem://x", "fsspec knows no protocol 'mem'"),
        ("simplecache::memory://x", "protocols can't be chained"),
        ("memory://a::file://b", "protocols can't be chained"),
        ("sftp://host/x", "needs a package that isn't installed: pip install paramiko"),
        ("ftp://me:secret@127.0.0.1:1/x", "ftp://me:***@127.0.0.1:1/x can't be reached (ConnectionRefusedError"),
        ("reference://x", "reference://x can't be reached (TypeError"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str, message: str) -> None:
    if "paramiko" in message and find_spec("paramiko"):
        pytest.skip("it is installed")
    with pytest.raises(UsageError) as raised:
        RemoteFolder(url)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
