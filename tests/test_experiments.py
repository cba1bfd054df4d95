import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.memory_family import __main__ as memory_family
from experiments.memory_family.million import million_table
from experiments.speed.peer_report import peers_report
from experiments.speed.report import rate_report
from experiments.speed.rmt import rmt_report
from rmt_rl.analysis.comparison import comparison_table
from rmt_rl.analysis.results import FILE, Experiment, RunResult
from rmt_rl.cli.experiment import config_cells, make_experiment, make_missing, make_runs
from rmt_rl.errors import UsageError
from rmt_rl.registry import NotInstalled
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.evaluation import read_evaluation, read_results
from rmt_rl.runs.folder import read_config
from rmt_rl.sweeps.engine import PlannedEvaluation
from tests.test_experiments_runs import CONFIG, IN_PROCESS

ROOT = Path(__file__).parent.parent / "experiments"


def test_runs_are_trained_evaluated_and_drawn_and_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    config = tmp_path / "bc.toml"
    config.write_text(CONFIG)
    plans = [PlannedEvaluation(vary="corridor_length=1,6", episodes=5), PlannedEvaluation(episodes=5)]
    configs = {config: plans}

    def make() -> list[Path]:
        return make_runs(config_cells(configs, seeds=[0]), tmp_path / "runs", IN_PROCESS)

    (run,) = make()
    results = read_results(run)
    assert [result["options"] for result in results] == [{"corridor_length": 1}, {"corridor_length": 6}, {}]
    result = RunResult.of(run)
    assert min(result.cpu_seconds["train"], result.cpu_seconds["evaluate"]) > 0
    assert "bc" in Experiment(tmp_path, configs).write([result])
    assert all((tmp_path / name).stat().st_size > 0 for name in ("table.md", "learning.png", "success.png"))

    # Stopped in the middle: no evaluation, and updates left to make.
    written = path_of(run).read_bytes()
    (run / "evaluation.json").unlink()
    text = (run / "config.toml").read_text().replace("updates = 3", "updates = 5")
    (run / "config.toml").write_text(text)
    with pytest.raises(UsageError, match=r"bc-0 holds a run with training\.updates=5, but the sweep's has 3"):
        make()
    config.write_text(CONFIG.replace("updates = 3", "updates = 5"))
    make()
    assert read_checkpoint(path_of(run)).header.update == 5
    assert path_of(run).read_bytes() != written
    assert read_evaluation(run) is not None
    seconds = cpu_seconds(run).model_dump()
    assert all(seconds[command] > before for command, before in result.cpu_seconds.items())

    # Finished: nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    make()
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_one_config_is_made_again_beside_what_is_kept_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    plans = [PlannedEvaluation(vary="corridor_length=1,6", episodes=5)]
    configs = {tmp_path / f"{name}.toml": plans for name in ("bc", "bc-two")}
    for file, updates in zip(configs, (1, 2), strict=True):
        file.write_text(CONFIG.replace("updates = 3", f"updates = {updates}"))
    runs = tmp_path / "runs"

    experiment = Experiment(tmp_path, configs)

    def again(*only: str, seeds: int = 2) -> str:
        return make_experiment(experiment, only, range(seeds), runs, IN_PROCESS)

    with pytest.raises(UsageError, match="has no results of bc: make it too"):
        again("bc-two")
    assert not runs.exists()
    whole = again()
    assert whole == comparison_table(sorted(runs.glob("bc*")))
    picture = (tmp_path / "success.png").read_bytes()

    shutil.rmtree(runs / "bc-0")  # what is kept needs no runs
    assert again("bc-two") == whole
    assert experiment.draw() == whole
    assert (tmp_path / "success.png").read_bytes() == picture
    # A config's results are of one making: fewer seeds take the place of all.
    seeds = [line.split("|")[-2].strip() for line in again("bc-two", seeds=1).splitlines()[2:]]
    assert seeds == ["2", "1"]

    with pytest.raises(UsageError, match="only=bc-t: nothing is named so; there are bc, bc-two"):
        again("bc-t")
    with pytest.raises(UsageError, match="seeds=0"):
        again(seeds=0)
    changed, _ = configs
    changed.write_text(CONFIG.replace("updates = 3", "updates = 4"))
    with pytest.raises(UsageError, match=r"has results of bc with training\.updates other than in bc\.toml"):
        again("bc-two")
    with (tmp_path / FILE).open("a") as lines:
        lines.write('{"config": "bc"}\n')
    with pytest.raises(UsageError, match="line 4, is damaged: a field is missing"):
        again("bc-two")


def test_missing_runs_are_made_and_kept_as_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    plans = [PlannedEvaluation(vary="corridor_length=1,6", episodes=5)]
    files = [tmp_path / f"{name}.toml" for name in ("bc", "bc-two")]
    for file, updates in zip(files, (1, 2), strict=True):
        file.write_text(CONFIG.replace("updates = 3", f"updates = {updates}"))
    experiment = Experiment(tmp_path, dict.fromkeys(files, plans))

    def make(runs: str, *only: str, seeds: int = 1, of: Experiment = experiment) -> list[str]:
        make_missing(of, only, range(seeds), tmp_path / runs, IN_PROCESS)
        made = sorted(path.name for path in (tmp_path / runs).glob("*"))
        assert (tmp_path / "table.md").read_text().count("\n") > 2
        return made

    assert make("first", "bc") == ["bc-0"]  # without results of the other config
    assert make("second") == ["bc-two-0"]
    assert make("third") == []
    assert make("fourth", "bc", seeds=2) == ["bc-1"]
    files[0].write_text(CONFIG.replace("updates = 3", "updates = 4"))
    assert make("fifth") == ["bc-0"]
    more = Experiment(tmp_path, {**experiment.configs, files[1]: [*plans, PlannedEvaluation(episodes=5)]})
    assert make("sixth", of=more) == ["bc-two-0"]
    assert [result.name for result in more.file.read()] == ["bc-0", "bc-1", "bc-two-0"]


def test_the_family_is_made_with_ageing_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    plans = [PlannedEvaluation(vary="corridor_length=1,6", episodes=5)]
    files = [tmp_path / f"{name}.toml" for name in ("with", "bc")]
    for file in files:
        file.write_text(CONFIG)
    monkeypatch.setattr(memory_family, "FAMILY", Experiment(tmp_path, {files[0]: plans}))
    without = Experiment(tmp_path / "without_ageing", {files[1]: plans})
    monkeypatch.setattr(memory_family, "WITHOUT_AGEING", without)

    def rows(folder: Path) -> list[tuple[str, int]]:
        lines = (folder / FILE).read_text().splitlines() if (folder / FILE).exists() else []
        return [(one["config"], one["seed"]) for one in map(json.loads, lines)]

    with pytest.raises(UsageError, match="only=wit: nothing is named so; there are with, bc"):
        memory_family.main(("wit",), runs=tmp_path / "runs", execution=IN_PROCESS)
    memory_family.main(("bc",), without_ageing=1, runs=tmp_path / "runs", execution=IN_PROCESS)
    assert (rows(tmp_path), rows(tmp_path / "without_ageing")) == ([], [("bc", 10)])
    memory_family.main(seeds=2, without_ageing=1, runs=tmp_path / "runs", execution=IN_PROCESS)
    assert (rows(tmp_path), rows(tmp_path / "without_ageing")) == ([("with", 10), ("with", 11)], [("bc", 10)])
    memory_family.main(draw=True)


def files_of(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("experiment", [memory_family.FAMILY, memory_family.WITHOUT_AGEING])
def test_stored_tables_are_those_of_stored_results(tmp_path: Path, experiment: Experiment) -> None:
    shutil.copy(experiment.folder / FILE, tmp_path)
    replace(experiment, folder=tmp_path).draw()
    names = (FILE, "table.md")
    assert files_of(tmp_path, names) == files_of(experiment.folder, names)


def test_stored_tables_of_measures_are_those_of_stored_measures() -> None:
    speed = ROOT / "speed"
    for name, report in (("rate", rate_report), ("rmt", rmt_report), ("peers", peers_report)):
        stored = json.loads((speed / f"{name}.json").read_text())
        assert report(stored["machine"], stored["results"]) == (speed / f"{name}.md").read_text()
    million = ROOT / "memory_family" / "million"
    results = json.loads(million.with_suffix(".json").read_text())
    assert million_table(results) == million.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    "config", sorted(ROOT.glob("*/*.toml")), ids=lambda config: f"{config.parent.name}/{config.stem}"
)
def test_every_config_of_an_experiment_is_valid(config: Path) -> None:
    try:
        read_config(config)
    except NotInstalled as error:  # e.g. Memory Maze on Python 3.13
        pytest.skip(str(error))
