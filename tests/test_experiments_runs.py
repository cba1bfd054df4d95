"""The runs of an experiment, in processes of their own that a signal stops, and in this process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from rmt_rl.cli.experiment import TWO_AT_ONCE, Execution, config_cells, make_runs
from rmt_rl.errors import UsageError, explained
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.folder import LOCK
from tests.tiny import start_process

IN_PROCESS = Execution(engine="tests.plugin.memlab.here:HereEngine")
CONFIG = """
env = "tmaze"
agent = "bc"
env_options = { corridor_length = [1, 4] }
agent_options = { segment_length = 3 }
data = { collect_episodes = 20, batch_size = 4 }
training = { updates = 3 }
evaluation = { eval_episodes = 4 }
"""


def make_long_run(config: str, runs: str) -> None:
    with explained():
        make_runs(config_cells({Path(config): []}, seeds=[0]), Path(runs), TWO_AT_ONCE)


def test_a_signal_stops_runs_in_processes_of_their_own_which_save_their_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    config, run = tmp_path / "bc.toml", tmp_path / "runs" / "bc-0"
    config.write_text(CONFIG.replace("updates = 3", "updates = 300, save_every = 20"))
    process = start_process(make_long_run, str(config), str(run.parent))
    while not path_of(run).exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    assert not (run / LOCK).exists(), "the run has saved its work"
    made = read_checkpoint(path_of(run)).header.update
    assert 0 < made < 300
    assert cpu_seconds(run).train > 0
    assert make_runs(config_cells({config: []}, seeds=[0]), run.parent, IN_PROCESS) == [run]
    assert read_checkpoint(path_of(run)).header.update == 300


def test_a_run_that_fails_is_named_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(CONFIG)
    bad.write_text(CONFIG.replace("updates = 3", "updates = 3, learning_rate = 1e30"))
    with pytest.raises(UsageError, match="1 of 2 runs failed, see above; the same command makes them again"):
        make_runs(config_cells({bad: [], good: []}, seeds=[0]), tmp_path, IN_PROCESS)
    assert "failed: bad-0: " in capsys.readouterr().err
    assert path_of(tmp_path / "good-0").exists()
    with pytest.raises(UsageError, match=r"jobs=0: Input should be greater than or equal to 1"):
        make_runs(config_cells({bad: []}, seeds=[0]), tmp_path, Execution(jobs=0))
    with pytest.raises(UsageError, match=r"unknown option adress='auto' \(known: jobs\)"):
        make_runs(config_cells({bad: []}, seeds=[0]), tmp_path, Execution(engine_options=("adress=auto",)))
