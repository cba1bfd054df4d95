"""`rmt-rl sweep`: the matrix, errors, and the local engine with workers and sweeps that are killed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmt_rl import registry
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.locks import holder_of
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.folder import read_config
from rmt_rl.sweeps.engine import Setting
from rmt_rl.sweeps.engines.local import LocalEngine, LocalOptions
from rmt_rl.sweeps.naming import cell_name
from rmt_rl.sweeps.space import SearchConfig
from tests.processes import Command, kill_all
from tests.tiny import assert_same_run, in_process, metrics, work_folder

HERE = "tests.plugin.memlab.here:HereEngine"  # works in this process
SWEEP = """
envs = ["tmaze"]
agents = ["bc"]
seeds = [0]

[train]
updates = 4
eval-episodes = 0
log-every = 2
save-every = 4
logger = []
accelerator = "cpu"
collect-episodes = 40
batch-size = 8
agent = { segment-length = 4, width = 16 }
"env.corridor-length" = [1, 10]
"""


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        Path("sweep.toml").write_text(SWEEP)
        yield folder


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    kill_all()


def sweep(*arguments: str) -> int:
    return main(["sweep", "sweep.toml", *arguments])


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return the files of a folder, with the times of their last changes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# The matrix


def test_cells_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    varied = ("learning-rate=0.001,3e-4", "env.corridor-length=[1,10],[1,20]", "agent.dropout=0.0,0.1")
    assert sweep("--agents", "bc", "rate", "--seeds", "0", "7", "--options", *varied, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 2 * 2 * 8
    assert lines[0] == "runs/sweep/tmaze-bc-lr0.001-cl1_10-dropout0.0-0"
    assert lines[-1] == "runs/sweep/tmaze-rate-lr0.0003-cl1_20-dropout0.1-7"
    assert not Path("runs").exists()


def test_the_sweeps_of_the_page_have_the_cells_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    text, search = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert validated(SearchConfig, tomllib.loads(search)["search"]).trials == 50
    Path("page.toml").write_text(text)
    (flags,) = re.findall(r"rmt-rl (sweep --envs .*?) +#", page.replace("\\\n", ""))
    assert main(["sweep", "page.toml", "--dry-run"]) == 0
    by_file = capsys.readouterr().out.splitlines()
    assert (by_file[0], len(by_file)) == ("runs/lr/tmaze-rate-lr0.001-0", 20)
    assert main([*flags.split(), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == by_file[:8]


@pytest.mark.parametrize(
    ("engine", "flags", "message"),
    [
        ("ray", ["--address", "127.0.0.1:1"], "address=127.0.0.1:1: no cluster can be reached"),
        ("slurm", [], "engine=slurm can't be used here"),
        ("slurm", ["--cluster", "local", "--gpus", "0.5"], "gpus=0.5: Slurm gives whole GPUs"),
        ("slurm", ["--sbatch", "account=x\nrm"], "engine_options.sbatch=.*String should match pattern"),
    ],
)
def test_an_engine_that_cannot_be_used_says_so(
    engine: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine])
    if engine == "slurm" and shutil.which("sbatch"):
        pytest.skip("this machine has Slurm")
    assert sweep("--recipe", "none", "--engine", engine, *flags, "--out", "nowhere") == 2
    assert not Path("nowhere").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("varied", "name"),
    [
        ({"learning_rate": 0.001}, "tmaze-rate-lr0.001-0"),
        ({"agent.width": 64, "env.corridor_length": [1, 88]}, "tmaze-rate-width64-cl1_88-0"),
        ({"feed": "streams", "standardise": False}, "tmaze-rate-feed_streams-standardise_False-0"),
        ({"weight_decay": -1, "warmup_delay": 2}, "tmaze-rate-weight_decay-1-warmup_delay2-0"),
        ({"agent.x": "a/b:c*?"}, "tmaze-rate-x_a-b-c---0"),
    ],
)
def test_names_are_names_of_files(varied: dict[str, Any], name: str) -> None:
    assert cell_name("tmaze", "rate", varied, 0) == name
    assert len(cell_name("tmaze", "rate", {"agent.x": "long" * 99}, 0)) <= 120


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("agent = 'bc'", (), r"unknown option agent='bc' \(known: envs, agents, .*did you mean 'agents'\?"),
        ("seeds = [0, 0]", (), r"seeds=\[0, 0\]: 0 stands there twice; remove one"),
        ("cores = 0", (), r"cores=0: .*greater than or equal to 1; expected threads of each run"),
        ("gpus = 1.5", (), r"gpus=1.5: a run has a share of one GPU or whole ones"),
        ("[options]\nwidht = [1]", (), r"run tmaze-bc-widht1-0: unknown option widht=1 \(known: seed, "),
        (
            "[options]\nupdates = 3",
            (),
            r"options=.*Input should be a valid tuple; expected the matrix: a list of values",
        ),
        ("[options]\nupdates = []", (), r"option 'updates' has no values; list some"),
        ("[options]\nseed = [3]", (), r"option 'seed' has a field of its own: seeds"),
        ("[[evaluate]]\nvary = 'x'", (), r"--vary 'x': give it as NAME=VALUE,VALUE,\.\.\."),
        ("[[evaluate]]\nepisode = 3", (), r"unknown option episode=3 \(known: vary, episodes\)"),
        ("engine = 'cloud'", (), r"unknown engine 'cloud' \(known: local, ray, slurm\)"),
        ("engine_options = { job = 2 }", (), r"unknown option job=2 \(known: jobs\); did you mean 'jobs'\?"),
        ("seeds = [", (), r"sweep bad\.toml isn't valid TOML"),
        ("", ("--train", "updates=1,2"), r"--train updates: give one value"),
        ("", ("--options", "updates"), r"--options 'updates': give it as NAME=VALUE,VALUE,\.\.\."),
        ("", ("--options", "updates=3,3"), r"option 'updates': 3 stands there twice"),
        ("", ("--agents", "nobody"), r"unknown agent 'nobody'"),
    ],
)
def test_a_mistake_is_one_line(
    text: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {"seeds": "", "agents": "agents = ['bc']", "envs": "envs = ['tmaze']"}
    for line in lines.values():
        text = f"{line}\n{text}"
    Path("bad.toml").write_text(text)
    assert main(["sweep", "bad.toml", *arguments, "--out", "bad"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not Path("bad").exists()


# Execution


def test_cells_are_made_once_and_a_failure_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--engine", HERE, "--out", "runs/here", "--vary", "corridor_length=2,3", "--episodes", "2") == 0
    run = Path("runs/here/tmaze-bc-0")
    assert [result["options"] for result in read_results(run)] == [{"corridor_length": 2}, {"corridor_length": 3}]
    made = content(run)
    capsys.readouterr()
    arguments = ("--engine", HERE, "--out", "runs/here", "--vary", "corridor_length=2,3", "--episodes", "2")
    assert sweep(*arguments) == 0
    assert capsys.readouterr().out == f"[1/1] finished before: {run}\n"
    assert content(run) == made

    missing = ("--options", 'dataset=["nothing/there-v0"],[]')
    assert sweep("--engine", HERE, "--out", "runs/two", *missing) == 1
    captured = capsys.readouterr()
    states = [line.split()[1] for line in captured.out.splitlines() if line.startswith("[")]
    assert states == ["failed:", "finished:"]
    assert "failed: tmaze-bc-dataset_nothing-there-v0-0: see above" in captured.err

    Path("sweep.toml").write_text(SWEEP.replace("width = 16", "width = 32"))
    try:
        assert sweep(*arguments) == 2
    finally:
        Path("sweep.toml").write_text(SWEEP)
    message = f"{Path.cwd() / run} holds a run with agent_options.width=16, but the sweep's has 32"
    assert message in capsys.readouterr().err
    assert content(run) == made
    assert read_config(run).length == 4


def test_killed_workers_and_sweeps_leave_nothing_that_a_new_sweep_does_not_mend() -> None:
    """A worker is killed, then the sweep itself; the run ends as if nothing had happened."""
    long = ("--train", "updates=300", "save-every=20", "eval-every=100", "eval-episodes=2")
    arguments = ["sweep", "sweep.toml", *long, "--jobs", "1", "--out", "runs/local"]
    run = Path("runs/local/tmaze-bc-0")
    assert sweep(*long, "--engine", HERE, "--out", "runs/whole") == 0

    first = Command(arguments)
    first.until(lambda: holder_of(run / ".lock") and (run / "last.safetensors").exists())
    worker = holder_of(run / ".lock")
    assert worker is not None
    os.kill(worker.process, 9)
    assert first.status() == 1
    assert "failed: tmaze-bc-0: the process was killed by signal 9 (see " in first.error
    made = len(metrics(run))

    second = Command(arguments)
    second.until(lambda: holder_of(run.parent / ".sweep" / "lock"))
    other = Command(arguments)
    assert other.status() == 2
    assert f"is in use by a sweep, process {second.process.pid} on" in other.error
    second.until(lambda: len(metrics(run)) > made + 5)
    second.kill()
    assert metrics(run)[-1]["update"] < 300, "it was killed in the middle"

    assert main([*arguments[:-4], "--engine", HERE, "--out", "runs/local"]) == 0  # while the worker saves its work
    assert_same_run(run, Path("runs/whole/tmaze-bc-0"))
    before = content(Path("runs/local"))
    assert main(arguments) == 0
    assert content(Path("runs/local")) == before


def test_gpus_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    folder = Path("unused")

    def places(gpus: float, jobs: int | None = None) -> list[str]:
        engine = LocalEngine(LocalOptions(jobs=jobs), Setting(cores=1, gpus=gpus, folder=folder))
        return [engine._free[place] for place in range(engine.capacity)]

    count = len(os.sched_getaffinity(0))
    assert places(0.5) == ["3", "5", "3", "5"][:count]
    assert places(1, jobs=2) == ["3", "5"]
    assert places(2) == ["3,5"]
    assert places(0, jobs=3) == ["", "", ""]
    with pytest.raises(UsageError, match=r"gpus=3\.0: this machine has 2 GPUs"):
        places(3.0)
    with pytest.raises(UsageError, match=r"jobs=5: with gpus=0\.5 only 4 runs fit"):
        places(0.5, jobs=5)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_missing_package_is_named_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"ray": "ray", "slurm": "submitit"}[name]
    monkeypatch.delitem(sys.modules, f"rmt_rl.sweeps.engines.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"engine '{name}' needs .*{module}.*pip install 'rmt-rl\[sweep\]'"):
        registry.engine_class(name)


def dry_run() -> None:
    assert main(["sweep", "sweep.toml", "--dry-run"]) == 0
    assert not {"ray", "submitit", "optuna"} & set(sys.modules)


def test_heavy_packages_are_imported_only_if_asked_for() -> None:
    assert in_process(dry_run) == 0
