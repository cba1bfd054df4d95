import shutil
from pathlib import Path

import pytest

from experiments.results import update_results
from experiments.suite import Suite, Sweep, chosen
from rmt_rl.checkpoint import path_of, read_checkpoint
from rmt_rl.evaluate import read_evaluation
from rmt_rl.plot import table
from rmt_rl.run import read_config

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
    results = (read_evaluation(run) or {})["results"]
    assert [result["options"] for result in results] == [{"corridor_length": 1}, {"corridor_length": 6}]
    assert "bc" in update_results([run], tmp_path, [config])
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


def test_results_of_one_config_are_made_anew_beside_those_kept_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    configs = {tmp_path / f"{name}.toml": [Sweep("corridor_length=1,6", episodes=5)] for name in ("bc", "bc-two")}
    for file, updates in zip(configs, (1, 2), strict=True):
        file.write_text(CONFIG.replace("updates = 3", f"updates = {updates}"))
    one, two = configs
    runs = Suite(configs, seeds=[0, 1], runs=tmp_path / "runs", jobs=2).run()
    whole = update_results(runs, tmp_path, [one, two])
    assert whole == table(runs)
    picture = (tmp_path / "success.png").read_bytes()

    again = [run for run in runs if run.name.startswith("bc-two")]
    shutil.rmtree(tmp_path / "runs" / "bc-0")  # what is kept needs no runs
    assert update_results(again, tmp_path, [one, two]) == whole
    assert (tmp_path / "success.png").read_bytes() == picture
    # A config's results are of one making: fewer seeds take the place of all.
    assert [row[-4:-2] for row in update_results(again[:1], tmp_path, [one, two]).splitlines()[2:]] == [" 2", " 1"]
    assert len(update_results(again, tmp_path, [two]).splitlines()) == 3  # the other is no part any more
    assert list(chosen(configs, "bc-t")) == [two]
    with pytest.raises(SystemExit, match="only='dt': no config's name begins so; there are bc, bc-two"):
        chosen(configs, "dt")


def test_every_config_of_an_experiment_is_valid() -> None:
    configs = list((Path(__file__).parent.parent / "experiments").glob("*/*.toml"))
    assert configs
    for config in configs:
        read_config(config)
