"""Runs and data sets on a Hub: pushed, read, and every way in which that fails. The Hub is a server on loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import minari
import pytest
import yaml
from huggingface_hub import constants

from rmt_rl.cli import main
from rmt_rl.huggingface import _downloaded
from tests.hub_server import TOKEN, Hub, hub_server

RUN = "zoo:tmaze-rate"
URL = "hf://someone/tmaze-rate"
PUSHED = {
    "README.md",
    "config.toml",
    "curves.png",
    "evaluation.json",
    "last.safetensors",
    "metrics.jsonl",
    "replay.mp4",
}
CAUGHT = pytest.CaptureFixture[str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, this user's token for it, and an empty cache."""
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # HF_ENDPOINT and HF_HOME are read at import
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
        monkeypatch.chdir(tmp_path)
        _downloaded.cache_clear()
        yield hub
        _downloaded.cache_clear()


def error_of(arguments: list[str], capsys: CAUGHT) -> str:
    """Return the one line of a command that fails."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_a_run_is_pushed_and_read(hub: Hub, capsys: CAUGHT) -> None:
    assert main(["push", RUN, "someone/tmaze-rate"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{hub.url}/someone/tmaze-rate\n"
    _, files = hub.repositories["models/someone/tmaze-rate"]
    assert set(files) == PUSHED
    assert files["replay.mp4"][4:8] == b"ftyp"
    _, front, text = files["README.md"].decode().split("---\n", 2)
    metadata = yaml.safe_load(front)
    (index,) = metadata["model-index"]
    names = [result["dataset"]["name"] for result in index["results"]]
    assert names == [f"tmaze, corridor_length={length}" for length in (90, 900, 9600)]
    assert metadata["pipeline_tag"] == "reinforcement-learning"
    assert "| 9,600 | 100 | 1.00 [0.96, 1.00] | 1.00 [1.00, 1.00] |" in text
    assert "rmt-rl evaluate hf://someone/tmaze-rate" in text

    assert main(["evaluate", URL, "--vary", "corridor_length=40", "--episodes", "4"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("corridor_length=40: success 1.00")
    assert shown[1] == "runs/someone-tmaze-rate/evaluation.json"
    asked = [path for path in hub.asked if "/resolve/" in path]
    assert asked
    assert not [path for path in asked if path.endswith((".md", ".png", ".mp4"))]


def test_what_would_be_pushed_can_be_looked_at_first(hub: Hub, capsys: CAUGHT) -> None:
    assert main(["push", RUN, "someone/tmaze-rate", "--out", "looked-at"]) == 0
    assert capsys.readouterr().out == "looked-at\n"
    assert {file.name for file in Path("looked-at").iterdir()} == PUSHED
    assert hub.asked == []
    assert "out=looked-at exists already" in error_of(["push", RUN, "a/b", "--out", "looked-at"], capsys)


def test_a_data_set_is_pushed_and_minari_downloads_it(
    hub: Hub, tmp_path: Path, capsys: CAUGHT, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for seed in ("0", "1"):
        assert main(["collect", "tmaze", "--episodes", "3", "--seed", seed]) == 0
        ids.append(capsys.readouterr().out.strip())
    for dataset in ids:
        assert main(["push-dataset", dataset, "someone"]) == 0
        assert capsys.readouterr().out == f"{hub.url}/datasets/someone/tmaze\n"
    listed = json.loads(hub.repositories["datasets/someone/tmaze"][-1]["namespace_metadata.json"])
    assert sorted(listed["datasets"]) == sorted(ids)

    content = (tmp_path / "data" / ids[0] / "data" / "main_data.hdf5").read_bytes()
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setenv("MINARI_REMOTE", "hf://someone")
    minari.download_dataset(ids[0])
    assert (tmp_path / "data" / ids[0] / "data" / "main_data.hdf5").read_bytes() == content
