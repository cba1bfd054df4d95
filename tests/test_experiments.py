import json
import shutil
from pathlib import Path

import pytest

from experiments.memory_family import __main__ as memory_family
from experiments.results import FILE, row, update_results
from experiments.suite import Suite, Sweep, made_again
from rmt_rl.analysis.plot import table
from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.evaluation import read_evaluation, read_results
from rmt_rl.runs.options import read_config

CONFIG = """
env = "tmaze"
agent = "bc"
env_options = { corridor_length = [1, 4] }
agent_options = { segment_length = 3 }
data = { collect_episodes = 20, batch_size = 4 }
training = { updates = 3 }
evaluation = { eval_episodes = 4 }
"""


def test_a_suite_trains_evaluates_and_draws_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    config = tmp_path / "bc.toml"
    config.write_text(CONFIG)
    suite = Suite({config: [Sweep("corridor_length=1,6", episodes=5)]}, seeds=[0], runs=tmp_path / "runs")
    (run,) = suite.run()
    results = read_results(run)
    assert [result["options"] for result in results] == [{"corridor_length": 1}, {"corridor_length": 6}]
    assert "bc" in update_results(tmp_path, [row(run)], [config])
    assert all((tmp_path / name).stat().st_size > 0 for name in ("table.md", "learning.png", "success.png"))

    # Stopped in the middle: no evaluation, and updates left to make.
    written = path_of(run).read_bytes()
    (run / "evaluation.json").unlink()
    text = (run / "config.toml").read_text().replace("updates = 3", "updates = 5")
    (run / "config.toml").write_text(text)
    with pytest.raises(SystemExit, match="is of another config than"):
        suite.run()
    config.write_text(CONFIG.replace("updates = 3", "updates = 5"))
    suite.run()
    assert read_checkpoint(path_of(run)).header.update == 5
    assert path_of(run).read_bytes() != written
    assert read_evaluation(run) is not None

    # Finished: nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    suite.run()
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_one_config_is_made_again_beside_what_is_kept_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    configs = {tmp_path / f"{name}.toml": [Sweep("corridor_length=1,6", episodes=5)] for name in ("bc", "bc-two")}
    for file, updates in zip(configs, (1, 2), strict=True):
        file.write_text(CONFIG.replace("updates = 3", f"updates = {updates}"))
    runs = tmp_path / "runs"

    def again(*only: str, seeds: int = 2, configs: dict[Path, list[Sweep]] = configs) -> str:
        return made_again(configs, tmp_path, only, range(seeds), runs, jobs=2)

    with pytest.raises(UsageError, match="has no results of bc: make it too"):
        again("bc-two")
    assert not runs.exists()
    whole = again()
    assert whole == table(sorted(runs.iterdir()))
    picture = (tmp_path / "success.png").read_bytes()

    shutil.rmtree(runs / "bc-0")  # what is kept needs no runs
    assert again("bc-two") == whole
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


def test_the_family_is_made_with_ageing_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    sweeps, files = [Sweep("corridor_length=1,6", episodes=5)], [tmp_path / f"{name}.toml" for name in ("with", "bc")]
    for file in files:
        file.write_text(CONFIG)
    monkeypatch.setattr(memory_family, "FOLDER", tmp_path)
    monkeypatch.setattr(memory_family, "CONFIGS", {files[0]: sweeps})
    monkeypatch.setattr(memory_family, "WITHOUT_AGEING", {files[1]: sweeps})

    def rows(folder: Path) -> list[tuple[str, int]]:
        lines = (folder / FILE).read_text().splitlines() if (folder / FILE).exists() else []
        return [(one["config"], one["seed"]) for one in map(json.loads, lines)]

    with pytest.raises(UsageError, match="only=wit: nothing is named so; there are with, bc"):
        memory_family.main(("wit",), runs=tmp_path / "runs")
    memory_family.main(("bc",), without_ageing=1, runs=tmp_path / "runs")
    assert (rows(tmp_path), rows(tmp_path / "without_ageing")) == ([], [("bc", 10)])
    memory_family.main(seeds=2, without_ageing=1, runs=tmp_path / "runs")
    assert (rows(tmp_path), rows(tmp_path / "without_ageing")) == ([("with", 10), ("with", 11)], [("bc", 10)])


def test_every_config_of_an_experiment_is_valid() -> None:
    configs = list((Path(__file__).parent.parent / "experiments").glob("*/*.toml"))
    assert configs
    for config in configs:
        read_config(config)
