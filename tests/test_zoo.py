"""The runs that come with this package: as listed, as good as stated, and read by every command that reads runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rmt_rl
from rmt_rl.acting.policies import parse_share
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.hub.zoo import LIST, ZooRun, describe_run, file_hashes, read_zoo
from rmt_rl.reading import read_toml
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.find import FILES, ZOO, zoo_names

NAMES = zoo_names()
CAUGHT = pytest.CaptureFixture[str]
COMMANDS = ["evaluate", "inspect", "plot", "report", "flops", "push", "train --config", "collect tmaze --policy"]
LARGEST = 1 << 20  # bytes of a run, which every wheel holds


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own as the current one, with data sets of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path


def listed(name: str) -> ZooRun:
    return read_zoo()[name]


def test_the_list_has_every_run_and_no_other() -> None:
    assert list(read_toml(LIST, "zoo")) == NAMES == ["cartpole_hidden-rate", "minigrid_memory-rate", "tmaze-rate"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_as_listed_small_and_without_the_state_of_its_training(name: str) -> None:
    run, folder = listed(name), ZOO / name
    assert file_hashes(folder) == run.sha256
    assert run.sha256.keys() <= set(FILES)
    assert sum(file.stat().st_size for file in folder.iterdir()) < LARGEST
    assert validated(ZooRun, describe_run(folder, run.summary, run.made_by)) == run
    saved = read_checkpoint(path_of(folder))
    assert saved.header.progress == {}
    assert {key.partition("/")[0] for key in saved.tensors} == {"model"}
    texts = [file.read_text() for file in folder.iterdir() if file != path_of(folder)]
    assert not [text for text in texts if "/home" in text or "/root" in text or "/work" in text]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_acts_as_well_as_stated(name: str) -> None:
    stated = listed(name).results[0]
    options: dict[str, Any] = dict(stated.options)
    reached = rmt_rl.evaluate(f"zoo:{name}", episodes=5, **options)
    assert reached.success_rate == stated.success_rate == 1.0


def test_results_of_a_run_that_is_read_only_go_below_the_current_folder(work: Path, capsys: CAUGHT) -> None:
    before = file_hashes(ZOO / "tmaze-rate")
    evaluate = ["evaluate", "zoo:tmaze-rate", "--vary", "corridor_length=5", "--episodes", "4"]
    assert main(evaluate) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("corridor_length=5: success 1.00")
    assert second == "runs/zoo-tmaze-rate/evaluation.json"
    (result,) = json.loads(Path(second).read_text())["results"]
    assert len(result["episodes"]) == 4
    assert main([*evaluate, "--out", "elsewhere", "--shards", "2"]) == 0
    assert Path("elsewhere/evaluation.json").exists()
    assert file_hashes(ZOO / "tmaze-rate") == before

    capsys.readouterr()
    assert main(["plot", "runs/zoo-tmaze-rate"]) == 0
    assert "| rate | 1.00 [0.51, 1.00] |" in capsys.readouterr().out
    assert main(["plot", "zoo:tmaze-rate"]) == 0
    assert "1.00 [0.96, 1.00]" in capsys.readouterr().out


def test_every_command_that_reads_runs_reads_the_zoo(work: Path, capsys: CAUGHT) -> None:
    assert main(["flops", "zoo:tmaze-rate"]) == 0
    assert main(["collect", "tmaze", "--policy", "zoo:tmaze-rate=2", "random=1", "--episodes", "3"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith("tmaze/tmaze-rate-random-3-seed0-")
    assert parse_share("hf://owner/name@v1=2") == ("hf://owner/name@v1", 2.0)
    small = "--updates 1 --collect-episodes 8 --batch-size 4 --eval-episodes 0 --accelerator cpu --ageing 0"
    assert main(["train", "--config", "zoo:tmaze-rate", *small.split(), "--out", "runs/again"]) == 0


@pytest.mark.slow  # collects the 4,000 episodes that the run learnt from
def test_the_memory_of_a_run_of_the_zoo_is_inspected(work: Path) -> None:
    assert main(["inspect", "zoo:tmaze-rate", "--segments", "2", "--episodes", "2", "--memories", "2"]) == 0
    assert Path("runs/zoo-tmaze-rate/inspection.json").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_not_in_the_zoo(command: str, capsys: CAUGHT) -> None:
    behind = ["a/b", "--out", "none"] if command == "push" else []
    assert main([*command.split(), "zoo:tmaze-rat", *behind]) == 2
    expected = f"error: zoo:tmaze-rat isn't in the zoo, which has {', '.join(NAMES)}; did you mean 'tmaze-rate'?\n"
    assert capsys.readouterr().err == expected


def test_a_run_of_the_zoo_is_not_resumed(capsys: CAUGHT) -> None:
    assert main(["train", "--resume", "zoo:tmaze-rate"]) == 2
    assert "train another with its options: rmt-rl train --config zoo:tmaze-rate" in capsys.readouterr().err
