"""Whatever stands in place of a file is told in one line: pipes, sockets, folders, huge files, nesting bombs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rmt_rl.acting.collect import collect
from rmt_rl.cli import main
from rmt_rl.data.root import data_root
from rmt_rl.errors import UsageError
from rmt_rl.reading import check_regular, parse_json, parse_toml, read_text
from tests.test_bad_input import complaint
from tests.test_cli import TINY
from tests.tiny import work_folder

Capture = pytest.CaptureFixture[str]
DEEP = 100_000


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a run that was evaluated."""
    with work_folder(tmp_path_factory) as folder:
        assert main(["train", "tmaze", "bc", *TINY, "--updates", "1", "--eval-episodes", "0", "--out", "whole"]) == 0
        assert main(["evaluate", "whole", "--episodes", "1"]) == 0
        yield folder


@pytest.fixture
def run(folder: Path) -> Iterator[Path]:
    """A copy of the run."""
    copy = folder / "run"
    shutil.copytree(folder / "whole", copy)
    yield copy
    shutil.rmtree(copy)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # since the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    """Make a sparse file, which takes no space."""
    with path.open("wb") as file:
        file.truncate(1 << 43)


READERS = {  # of each file of a run, what reads it
    "config.toml": ["evaluate", "run"],
    "last.safetensors": ["evaluate", "run"],
    "evaluation.json": ["plot", "run", "--out", "a.png"],
    "metrics.jsonl": ["plot", "run", "--out", "a.png"],
}
IN_PLACE = [pipe, a_socket, device, a_folder, huge]
WORDS = {"pipe": "is a named pipe", "a_socket": "is a socket", "device": "is a device", "a_folder": "is a folder"}


@pytest.mark.parametrize("make", IN_PLACE)
@pytest.mark.parametrize("name", READERS)
def test_things_in_place_of_a_run_s_files(name: str, make: Callable[[Path], None], run: Path, capsys: Capture) -> None:
    (run / name).unlink()
    make(run / name)
    line = complaint(READERS[name], capsys)
    assert WORDS.get(make.__name__, "8,796,093,022,208 bytes, but at most") in line
    assert name in line
    if name == "config.toml":
        assert name in complaint(["train", "--config", "run/config.toml"], capsys)
        assert name in complaint(["train", "--resume", "run"], capsys)


@pytest.mark.parametrize("make", [pipe, a_socket, device])
@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_things_in_place_of_a_data_set_s_files(name: str, make: Callable[[Path], None], capsys: Capture) -> None:
    identity = collect("tmaze", {"corridor_length": 2}, episodes=2, seed=0)
    data = data_root() / identity / "data"
    (data / name).unlink()
    make(data / name)
    line = complaint(["train", "--dataset", identity, "bc", "--updates", "1", "--out", "new"], capsys)
    assert WORDS[make.__name__] in line
    assert "damaged" not in line
    shutil.rmtree(data.parent)


BOMBS = {
    "lists": "a = " + "[" * DEEP + "]" * DEEP,
    "tables": "a = " + "{a=" * DEEP + "1" + "}" * DEEP,
    "dots": ".".join(["a"] * 3000) + " = 1",
    "digits": "a = 1" + "0" * DEEP,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_of_toml(bomb: str, run: Path, capsys: Capture) -> None:
    (run / "config.toml").write_text(bomb)
    for arguments in (["evaluate", "run"], ["train", "--config", "run/config.toml"], ["plot", "run", "--out", "a.png"]):
        line = complaint(arguments, capsys)
        assert "config.toml" in line
        assert len(line) < 2000


JSON_BOMBS = {
    "lists": "[" * DEEP + "]" * DEEP,
    "objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "digits": '{"update": 1' + "0" * DEEP + "}",
}


@pytest.mark.parametrize("bomb", JSON_BOMBS.values(), ids=JSON_BOMBS)
def test_bombs_of_json(bomb: str, run: Path, capsys: Capture) -> None:
    for name in ("evaluation.json", "metrics.jsonl"):
        before = (run / name).read_text()
        (run / name).write_text(f"{bomb}\n{{}}\n" if name == "metrics.jsonl" else bomb)
        line = complaint(READERS[name], capsys)
        assert name in line
        assert "is damaged" in line
        (run / name).write_text(before)


@pytest.mark.parametrize("bomb", JSON_BOMBS.values(), ids=JSON_BOMBS)
def test_bombs_in_a_data_set(bomb: str, capsys: Capture) -> None:
    identity = collect("tmaze", {"corridor_length": 2}, episodes=2, seed=0)
    path = data_root() / identity / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    for text in (bomb, json.dumps(metadata | {"observation_space": bomb}), json.dumps(metadata | {"env_spec": bomb})):
        path.write_text(text)
        arguments = ["train", "tmaze", "bc", "--dataset", identity, "--updates", "1", "--out", "new"]
        assert identity in complaint(arguments, capsys)
    shutil.rmtree(path.parents[1])


def header_of(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


@pytest.mark.parametrize(
    "content",
    [
        header_of(b"{}", 1 << 60),
        header_of(b'{"__metadata__":' + b'{"a":' * DEEP),
        header_of(json.dumps({"__metadata__": {"rmt_rl": JSON_BOMBS["lists"]}}).encode()),
        header_of(json.dumps({"__metadata__": {"rmt_rl": JSON_BOMBS["digits"]}}).encode()),
        header_of(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}') + bytes(4),
    ],
    ids=["length", "header", "lists", "digits", "shape"],
)
def test_bombs_of_safetensors(content: bytes, run: Path, capsys: Capture) -> None:
    (run / "last.safetensors").write_bytes(content)
    line = complaint(["evaluate", "run"], capsys)
    assert "last.safetensors" in line
    assert len(line) < 2000


def test_a_bomb_on_the_command_line(capsys: Capture) -> None:
    line = complaint(["evaluate", "whole", "--vary", "corridor_length=" + "[" * DEEP], capsys)
    assert "corridor_length" in line
    assert len(line) < 3000


def test_text_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one\r\ntwo\n")
    assert read_text(path) == "one\ntwo\n"
    with pytest.raises(UsageError, match="has 9 bytes, but at most 8"):
        read_text(path, 8)
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "missing")


def test_honest_nesting_is_read() -> None:
    assert parse_json("[" * 50 + "]" * 50)
    assert parse_toml(".".join(["a"] * 50) + " = 1")
