"""Data sets and evaluations made in shards by engines: the same bytes, whoever plays them."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import minari
import pytest

from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, parse_share
from rmt_rl.acting.provenance import dataset_id
from rmt_rl.cli import main
from rmt_rl.data.index import INDEX_FILE
from rmt_rl.data.root import data_root
from rmt_rl.errors import UsageError
from rmt_rl.runs.evaluation import FILE, read_results
from rmt_rl.training.loop import train
from tests.processes import Command, kill_all
from tests.tiny import tiny, work_folder

COLLECT = ["collect", "tmaze", "--episodes", "50", "--policy", "expert=4", "random=1", "--shards", "3"]
SHORT = ["--env.corridor-length", "1", "9"]
RUN = Path("runs/bc")
VARIED = ["--vary", "corridor_length=2,9"]
EVALUATE = ["evaluate", str(RUN), *VARIED, "--episodes", "30", "--num-envs", "10", "--sample"]
SMALL_STORE = 80 * 2**20  # bytes of Ray's object store


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        train(tiny("bc", updates=1, evaluation={"eval_episodes": 0}), RUN)
        yield folder


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    kill_all()


def contents(root: Path) -> dict[str, bytes]:
    """Return all files but the indices, which hold the times at which their data were written."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != INDEX_FILE]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def results(folder: Path) -> str:
    """Return `evaluation.json` without the times that were measured."""
    return re.sub(r'"seconds": [^,]*', "", (folder / FILE).read_text())


def assert_engine_writes_what_one_process_does(
    engine: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Collect and evaluate without an engine and with one."""
    found = []
    for place, more in ((root / "one", []), (root / "many", ["--engine", *engine])):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(place / "data"))
        assert main([*COLLECT, *SHORT, *more]) == 0
        collected = capsys.readouterr().out
        in_shards = ["--shards", "2", *more] if more else []
        assert main([*EVALUATE, *in_shards, "--out", str(place / "results")]) == 0
        capsys.readouterr()
        found.append((collected, contents(place / "data"), results(place / "results")))
    assert found[0] == found[1]
    assert len(found[0][1]) >= 2


@pytest.mark.parametrize(
    "engine",
    [
        ["local", "--jobs", "2"],
        pytest.param(["slurm", "--cluster", "local"], marks=pytest.mark.slow),  # seconds to start each
    ],
)
def test_every_engine_writes_what_one_process_does(
    engine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine[0] == "slurm":
        pytest.importorskip("submitit")
    assert_engine_writes_what_one_process_does(engine, tmp_path, monkeypatch, capsys)


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Yield the address of a Ray cluster of one node, which several commands use, since it takes long to start."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": SMALL_STORE, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_ray_writes_what_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with ray_cluster() as address:
        assert_engine_writes_what_one_process_does(["ray", "--address", address], tmp_path, monkeypatch, capsys)


def test_shards_are_played_with_seeds_of_their_own() -> None:
    options = {"corridor_length": 3}
    identity = collect("tmaze", options, 40, 0, shards=4)
    episodes = list(minari.load_dataset(identity))
    assert len(episodes) == 40
    firsts = {episode.observations[0].tobytes() + episode.observations[1].tobytes() for episode in episodes[::10]}
    assert len(firsts) > 1
    assert identity != dataset_id("tmaze", options, 40, 0)
    assert data_root().joinpath(identity).is_dir()


def test_shards_and_engines_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = Behaviour((parse_share("expert=9"), parse_share("random=1")))
    with pytest.raises(UsageError, match="shards=3: every policy plays at least an episode in each"):
        collect("tmaze", {}, 20, 0, mixed, shards=3)
    assert main(["collect", "tmaze", "--engine", "local"]) == 2
    assert "engine=local plays shards; say how many by --shards" in capsys.readouterr().err


def test_an_error_of_a_shard_is_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.py").write_text(BROKEN)
    command = ["collect", "broken:Broken", "--policy", "random", "--episodes", "8", "--shards", "2"]
    for more in ([], ["--engine", "local", "--jobs", "1"]):
        assert main([*command, *more]) == 2
        assert "observations is not finite in environment 0: nan" in capsys.readouterr().err


BROKEN = """
import gymnasium, numpy
class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation = numpy.full(1, numpy.nan if seed and seed >= 64 else 0, numpy.float32)  # the second shard's
        return numpy.zeros(1, numpy.float32), {}
    def step(self, action):
        return self.observation, 0.0, False, True, {}
"""


@pytest.mark.slow  # an evaluation, below, stops them in the same way
def test_sigterm_ends_the_shards_too() -> None:
    command = Command(
        ["collect", "tmaze", "--episodes", "2000000", "--shards", "8", "--engine", "local", "--jobs", "2"]
    )
    root = data_root()
    command.until(lambda: list(root.rglob(".unfinished*")))
    time.sleep(3)
    command.send(signal.SIGTERM)
    assert command.status() == 143, command.error
    assert "Traceback" not in command.error


def children(process: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_an_evaluation_s_shards_end_at_a_signal_with_the_results_of_whole_values_written() -> None:
    vary = ["--vary", "corridor_length=2,1000000", "--episodes", "4"]
    out = Path("stopped")
    engine = ["--engine", "local", "--jobs", "2"]
    command = Command(["evaluate", str(RUN), *vary, "--shards", "2", *engine, "--out", str(out)])
    command.until(lambda: (out / FILE).exists())
    started = children(command.process.pid)
    command.send(signal.SIGTERM)
    assert command.status() == 143, command.error
    assert command.error == ""
    assert [result["options"] for result in read_results(out)] == [{"corridor_length": 2}]
    assert len(started) >= 2
    assert not [process for process in started if Path(f"/proc/{process}").exists()]
