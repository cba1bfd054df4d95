"""Sweeps on Ray, with a node that is killed, and on Slurm's stand-in of submitit, with a job that is preempted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmt_rl.cli import main
from rmt_rl.locks import holder_named, holder_of
from tests.processes import Command, kill_all
from tests.test_sweep import HERE, SWEEP
from tests.tiny import assert_same_run, metrics, work_folder

LONG = ("--train", "updates=400", "save-every=20", "eval-every=200", "eval-episodes=2")
RUN = "tmaze-bc-0"
SMALL_STORE = 80 * 2**20  # bytes of a node's object store


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with an uninterrupted run."""
    with work_folder(tmp_path_factory) as folder:
        Path("sweep.toml").write_text(SWEEP)
        assert main(["sweep", "sweep.toml", *LONG, "--engine", HERE, "--out", "whole"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    kill_all()


def parent(process: int) -> int:
    """Return the number of a process's parent."""
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("PPid:")]
    return int(line.split()[1])


def worker(run: Path) -> int:
    """Return the process that trains a run."""
    signature, _, _ = (run / ".lock").read_text().partition("\n")
    holder = holder_named(signature)
    assert holder is not None
    return holder.process


@pytest.mark.parametrize("store", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["shared", "url"])
def test_a_run_on_ray_goes_on_after_the_loss_of_its_node(store: bool) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": SMALL_STORE, "include_dashboard": False, "include_log_monitor": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "no_monitor": True, **common})
    try:
        nodes = [cluster.add_node(num_cpus=1, **common) for _ in range(2)]
        by_raylet = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
        runs = Path("at-url" if store else "ray")
        run = runs / RUN
        place = ["--out", "copies", "--store", f"file://{runs.absolute()}"] if store else ["--out", str(runs)]
        command = Command(["sweep", "sweep.toml", *LONG, "--engine", "ray", "--address", cluster.address, *place])
        command.until(lambda: (run / ".lock").exists() and (run / "last.safetensors").exists())
        first = worker(run)
        cluster.remove_node(by_raylet[parent(parent(first))], allow_graceful=False)
        assert metrics(run)[-1]["update"] < 400, "it was killed in the middle"
        assert command.status() == 0, command.error
        assert_same_run(run, Path("whole", RUN))
    finally:
        kill_all()
        cluster.shutdown()


@pytest.mark.slow
def test_a_preempted_job_of_an_array_is_queued_again() -> None:
    pytest.importorskip("submitit")
    engine = ("--engine", "slurm", "--cluster", "local")
    command = Command(["sweep", "sweep.toml", *LONG, "--seeds", "0", "1", *engine, "--out", "slurm"])
    run = Path("slurm", RUN)
    command.until(lambda: holder_of(run / ".lock") and (run / "last.safetensors").exists())
    first = worker(run)
    os.kill(parent(first), signal.SIGUSR2)  # as Slurm does before it ends a job
    assert command.status() == 0, command.error
    assert_same_run(run, Path("whole", RUN))
    assert sorted(line.split()[1] for line in command.output.splitlines()) == ["finished:", "finished:"]
    logs = [path.read_text() for path in Path("slurm", ".sweep", "slurm").glob("*_log.out")]
    assert sum("Requeued job" in log for log in logs) == 1
    own = Path("slurm", ".sweep", f"{RUN}.log").read_text()
    assert own.count("$ rmt-rl train") == 2
    assert "stopped at" in own


@pytest.mark.slow
def test_ray_starts_by_itself_and_stops_with_the_sweep() -> None:
    pytest.importorskip("ray")
    command = Command(["sweep", "sweep.toml", *LONG, "--engine", "ray", "--out", "own"])
    run = Path("own", RUN)
    command.until(lambda: holder_of(run / ".lock") and (run / "last.safetensors").exists())
    command.send(signal.SIGTERM)
    assert command.status() == 143, command.error
    assert not (run / ".lock").exists(), "the run has saved its work"
    assert metrics(run)[-1]["update"] < 400
    assert main(["sweep", "sweep.toml", *LONG, "--engine", "ray", "--out", "own"]) == 0
    assert_same_run(run, Path("whole", RUN))
