"""Runs and data sets on a Hub: pushed, read, and every way in which that fails. The Hub is a server on loopback."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import pytest
from huggingface_hub import ModelCard, constants

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.runs.find import ZOO, find_run
from rmt_rl.runs.huggingface import _downloaded
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


def error_of(arguments: list[str], capsys: CAUGHT, warning: str = "") -> str:
    """Return the one line of a command that fails, behind a warning."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    error = captured.err.removeprefix(warning)
    assert error.count("\n") == 1, captured.err
    return error


def test_a_run_is_pushed_and_read(hub: Hub, capsys: CAUGHT) -> None:
    assert main(["push", RUN, "someone/tmaze-rate"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{hub.url}/someone/tmaze-rate\n"
    _, files = hub.repositories["models/someone/tmaze-rate"]
    assert set(files) == PUSHED
    assert files["replay.mp4"][4:8] == b"ftyp"
    card = ModelCard(files["README.md"].decode())
    metadata: Any = card.data
    assert metadata.pipeline_tag == "reinforcement-learning"
    lengths = (90, 900, 9600)
    listed = [(result.dataset_name, result.metric_type) for result in metadata.eval_results]
    figures = ("mean_reward", "success_rate")
    assert listed == [(f"tmaze, corridor_length={length}", figure) for length in lengths for figure in figures]
    assert "| 9,600 | 100 | 1.00 [0.96, 1.00] | 1.00 [1.00, 1.00] |" in card.text
    assert "rmt-rl evaluate hf://someone/tmaze-rate" in card.text

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


def test_a_push_that_fails_says_why_and_changes_nothing(
    hub: Hub, capsys: CAUGHT, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ["push", "small", "someone/small"]
    Path("small").mkdir()
    for name in ("config.toml", "last.safetensors"):
        shutil.copy(ZOO / "tmaze-rate" / name, "small")
    monkeypatch.setitem(sys.modules, "moviepy", None)  # as if it weren't installed
    missing = "--video needs 'moviepy', which is not installed: pip install 'rmt-rl[video]'"
    warning = f"warning: the card gets no video: {missing}\n"

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "none")
    assert "there is no token for the Hub; log in" in error_of(push, capsys)
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_that_is_wrong")
    assert "someone/small can't be written to: log in with a token that may write" in error_of(push, capsys, warning)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for hub.failing_at in ("create", "commit"):
        assert "someone/small can't be written to: the Hub has a fault" in error_of(push, capsys, warning)
    hub.failing_at = None
    assert hub.repositories == {"models/someone/small": [{}]}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "someone/small can't be written to: check the network" in error_of(push, capsys, warning)
    assert hub.repositories == {"models/someone/small": [{}]}
    assert sorted(file.name for file in Path("small").iterdir()) == ["config.toml", "last.safetensors"]

    asked = len(hub.asked)
    assert "config none can't be read" in error_of(["push", "none", "a/b"], capsys)
    assert "'someone' is no repository of the Hub; write owner/name" in error_of(["push", "small", "someone"], capsys)
    assert "name a run and a repository" in error_of(["push", "small"], capsys)
    assert "leave out RUN" in error_of(["push", "small", "--zoo", "someone"], capsys)
    assert len(hub.asked) == asked


def test_a_data_set_that_fails_to_be_pushed(hub: Hub, capsys: CAUGHT, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["collect", "tmaze", "--episodes", "3"]) == 0
    dataset = capsys.readouterr().out.strip()
    assert "'tmaze/none-v0' is not below" in error_of(["push-dataset", "tmaze/none-v0", "someone"], capsys)
    elsewhere = error_of(["push-dataset", dataset, "someone/else"], capsys)
    assert "in a repository named 'tmaze'; write someone, or someone/tmaze" in elsewhere
    monkeypatch.setenv("HF_TOKEN", "hf_that_is_wrong")
    assert "someone/tmaze can't be written to: log in" in error_of(["push-dataset", dataset, "someone"], capsys)


def test_what_cannot_be_read_from_the_hub(hub: Hub, capsys: CAUGHT, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = ["evaluate", "hf://someone/none"]
    assert "hf://someone/none can't be read: check the name; if the repository is private" in error_of(evaluate, capsys)
    hub.repositories["models/someone/other"] = [{"weights.pkl": b"x", "README.md": b"no run"}]
    assert "hf://someone/other holds no run: it has no config.toml" in error_of(
        ["evaluate", "hf://someone/other"], capsys
    )
    assert not [path for path in hub.asked if "weights.pkl" in path]
    assert "name a branch, tag or commit" in error_of(["inspect", "hf://someone/other@v2"], capsys)
    for name in ("hf://someone", "hf://a/b/c", "hf:///b", "hf://a/b@"):
        assert "is no repository of the Hub" in error_of(["evaluate", name], capsys)
    hub.failing_at = "none"
    assert "hf://someone/none can't be read" in error_of(evaluate, capsys)


def test_a_run_that_was_read_is_there_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {file.name: file.read_bytes() for file in (ZOO / "tmaze-rate").iterdir()}
    hub.repositories["models/someone/tmaze-rate"] = [first]
    found = find_run(URL)
    assert {file.name: file.read_bytes() for file in found.folder.iterdir()} == first
    assert (found.name, found.out) == ("someone-tmaze-rate", Path("runs/someone-tmaze-rate"))
    pinned = hub.sha("models/someone/tmaze-rate", "main")
    hub.repositories["models/someone/tmaze-rate"].append(first | {"metrics.jsonl": b""})
    assert find_run(URL) == found  # one process sees one state
    assert find_run(f"{URL}@{pinned}") == found
    _downloaded.cache_clear()
    newer = find_run(URL)
    assert (newer.folder / "metrics.jsonl").read_bytes() == b""
    _downloaded.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find_run(URL) == newer
    assert rmt_rl.load(URL).spec.target_return == 1.0


@pytest.mark.slow
def test_the_commands_of_the_page_run_as_they_stand(hub: Hub, capsys: CAUGHT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    page = (Path(__file__).parents[1] / "docs" / "hub.md").read_text()
    quick = {"evaluate": "--episodes 2", "train": "--updates 2 --eval-episodes 2 --accelerator cpu --ageing 0"}
    shutil.copytree(ZOO / "tmaze-rate", "runs/rate-0")
    collected = "ID"
    ran = []
    for line in re.findall(r"^    rmt-rl ([^#\n]*)", page, re.MULTILINE):
        words = line.replace("ID", collected).split()
        assert main([*words, *quick.get(words[0], "").split()]) == 0, line
        shown = capsys.readouterr().out
        collected = shown.strip() if words[0] == "collect" else collected
        ran.append(words[0])
    assert ran.count("evaluate") == 5
    assert ran.count("push") == 3
    zoo = [f"models/me/rmt-rl-{path.parent.name}" for path in ZOO.glob("*/config.toml")]
    assert {*zoo, "models/me/tmaze-rate", "datasets/me/tmaze"} == set(hub.repositories)
    assert Path("runs/zoo-minigrid_memory-rate/videos").is_dir()
