"""`rmt-rl sweep` with a search: trials, their journal, and what a search goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmt_rl.cli import main
from rmt_rl.runs.folder import read_config
from tests.test_sweep import HERE, SWEEP
from tests.tiny import metrics, work_folder

optuna = pytest.importorskip("optuna")
SEARCH = """
[search]
trials = 2
metric = "train/loss"
direction = "minimize"

[search.options]
learning-rate = { low = 1e-4, high = 1e-2, log = true }
agent = { width = { choices = [8, 16] } }
warmup = { low = 1, high = 3 }
"""


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        Path("search.toml").write_text(SWEEP + SEARCH)
        yield folder


def study(out: str) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(f"{out}/.sweep/search.journal")
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))


def search(*arguments: str) -> int:
    return main(["sweep", "search.toml", "--engine", HERE, *arguments])


def test_a_search_goes_on_with_its_trials(capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--out", "found") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("[")] == [
        "[1/2] finished: found/tmaze-bc-trial0-0",
        "[2/2] finished: found/tmaze-bc-trial1-0",
    ]
    assert lines[-1].startswith("best of 2: trial ")
    for trial in study("found").trials:
        run = Path(f"found/tmaze-bc-trial{trial.number}-0")
        config: Any = read_config(run)
        assert trial.value == metrics(run)[-1]["train/loss"]
        assert trial.params["learning_rate"] == config.training.learning_rate
        assert trial.params["agent.width"] == str(config.agent_options.width)
        assert trial.params["warmup"] == config.training.warmup

    before = {path: path.stat().st_mtime_ns for path in Path("found").rglob("*.safetensors")}
    space = study("found").trials[0].distributions
    killed = study("found").ask(space)  # as a search leaves it that is killed now
    assert search("--out", "found", "--search", "4") == 0
    trials = study("found").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert trials[2].params == killed.params
    assert len({trial.params["learning_rate"] for trial in trials}) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert search("--out", "found", "--search", "4") == 0
    assert len(study("found").trials) == 4


def test_trials_are_compared_by_evaluations_over_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    text = (SWEEP + SEARCH).replace("train/loss", "mean_return").replace("minimize", "maximize")
    Path("means.toml").write_text(text.replace("trials = 2", "trials = 1"))
    vary = ("--vary", "corridor_length=1,2", "--episodes", "2")
    assert main(["sweep", "means.toml", "--engine", HERE, "--seeds", "0", "1", *vary, "--out", "means"]) == 0
    assert len(list(Path("means").glob("tmaze-bc-trial0-*/evaluation.json"))) == 2
    assert "best of 1: trial 0, mean_return " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("trials = 2", "trial = 2", "unknown option trial=2 (known: trials, "),
        ("low = 1, high = 3", "low = 3, high = 1", "low=3 and high=1 are no range"),
        ("low = 1, high = 3", "low = 1", "give low and high, or choices"),
        ("choices = [8, 16]", "choices = [8], low = 3", "give either choices, or low and high"),
        ("[train]", "[options]\nupdates = [1]\n[train]", "a search draws the options, so there is no matrix"),
        ("warmup", "warmups", "run tmaze-bc-trial0-0: unknown option warmups="),
        ("train/loss", "train/lost", "metric=train/lost: "),
    ],
)
def test_a_mistake_is_one_line(before: str, after: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.toml").write_text((SWEEP + SEARCH).replace(before, after))
    assert main(["sweep", "bad.toml", "--engine", HERE, "--out", "bad"]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert message in error


def test_a_search_without_ranges_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.toml").write_text(SWEEP)
    assert main(["sweep", "bare.toml", "--search", "3"]) == 2
    assert "options is missing; expected the range of each option" in capsys.readouterr().err


@pytest.mark.slow
def test_bad_trials_are_stopped_early() -> None:
    """On the local engine, as only runs in processes of their own can be stopped."""
    text = (SWEEP + SEARCH).replace("low = 1e-4, high = 1e-2, log = true", "choices = [1e-2, 1e-9]")
    text = text.replace("trials = 2", 'trials = 10\nsampler = "random"\npruner = "median"')
    Path("pruned.toml").write_text(text.replace("updates = 4", "updates = 1500"))
    assert main(["sweep", "pruned.toml", "--jobs", "2", "--out", "pruned"]) == 0
    trials = study("pruned").trials
    stopped = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    for trial in stopped:
        assert trial.params["learning_rate"] == "1e-09"
        assert metrics(Path(f"pruned/tmaze-bc-trial{trial.number}-0"))[-1]["update"] < 1500
