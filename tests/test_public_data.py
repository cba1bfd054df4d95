"""Data sets of others: replicas of Minari's public ones are learnt from, and what can't be read is explained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Space
from minari.serialization import deserialize_space

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.data.opening import open_dataset
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.runs.evaluation import read_evaluation
from rmt_rl.runs.folder import read_config
from rmt_rl.space_fit import joined
from tests.replicas import REPLICAS, atari, change_metadata, pointmaze, robotics, write
from tests.tiny import metrics

Capture = pytest.CaptureFixture[str]
TINY = ["--agent.width", "16", "--batch-size", "4", "--updates", "2", "--eval-every", "2", "--accelerator", "cpu"]
QUICK = [*TINY, "--eval-episodes", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    with robotics():
        yield tmp_path


def played_lengths() -> list[float]:
    record = read_evaluation(Path("run"))
    assert record is not None
    return [episode["length"] for episode in record["results"][0]["episodes"]]


LARGE = {atari: pytest.mark.slow}  # images


@pytest.mark.parametrize(
    "replica", [pytest.param(each, id=each.__name__, marks=LARGE.get(each, ())) for each in REPLICAS]
)
def test_agents_learn_from_replicas_of_public_data(replica: Callable[[], str], capsys: Capture) -> None:
    identity = replica()
    assert main(["train", "--dataset", identity, "bc", *TINY, "--eval-episodes", "2", "--out", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    (trained,) = [line["eval/mean_length"] for line in metrics(Path("run")) if "eval/mean_length" in line]
    most = REPLICAS[replica]
    assert 1 <= trained <= most
    assert all(1 <= length <= most for length in played_lengths())
    printed = capsys.readouterr().err
    assert ("left out" in printed) == ("babyai" in replica.__name__)
    assert ("is evaluated in" in printed) == ("maze" in replica.__name__)


def test_the_environment_of_evaluation_is_the_run_s(capsys: Capture) -> None:
    assert main(["train", "--dataset", pointmaze(), "bc", *TINY, "--eval-episodes", "2", "--out", "run"]) == 0
    note = "note: the agent is evaluated in PointMaze_UMaze-v3 of other maze_map, reset_target, max_episode_steps"
    assert note in capsys.readouterr().err
    config = read_config(Path("run"))
    spec = json.loads(config.env_options.model_dump()["spec"])
    assert (config.env, spec["max_episode_steps"], spec["kwargs"]["reset_target"]) == ("PointMaze_UMaze-v3", 12, False)
    assert rmt_rl.evaluate("run", episodes=2).mean_length == 12


# Spaces that differ


def cartpole(bounds: float = 1.0, dtype: Any = np.float32, shape: tuple[int, ...] = (4,)) -> str:
    env = gymnasium.make("CartPole-v1", max_episode_steps=9)
    return write("mine/cartpole-v0", env.spec, spaces.Box(-bounds, bounds, shape, dtype), spaces.Discrete(2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_other_bounds_and_widths_fit(dtype: Any) -> None:
    assert main(["train", "--dataset", cartpole(2.0, dtype), "bc", *TINY, "--eval-episodes", "2", "--out", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    assert rmt_rl.evaluate(rmt_rl.load("run"), "CartPole-v1", episodes=2).mean_length > 0


@pytest.mark.parametrize(("dtype", "shape"), [(np.int64, (4,)), (np.float32, (3,)), (np.float32, (4, 1))])
def test_other_kinds_and_shapes_do_not_fit(dtype: Any, shape: tuple[int, ...], capsys: Capture) -> None:
    assert main(["train", "--dataset", cartpole(2, dtype, shape), "bc", *TINY, "--out", "run"]) == 2
    assert "has observation_space Box(" in capsys.readouterr().err
    assert not Path("run").exists()


class Wide(gymnasium.Env[Any, Any]):
    """Actions of float64 in [-0.5, 0.5], part of a Dict; each must be in the space."""

    observation_space = spaces.Box(-1, 1, (2,), np.float64)
    action_space = spaces.Dict({"force": spaces.Box(-0.5, 0.5, (2,), np.float64), "gear": spaces.Discrete(3)})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return np.zeros(2), 1.0, self.time == 4, False, {}


@pytest.fixture
def wide() -> Iterator[str]:
    gymnasium.register("Wide-v0", f"{__name__}:Wide")
    yield "Wide-v0"
    del gymnasium.registry["Wide-v0"]


def test_actions_have_the_bounds_and_dtypes_of_the_environment(wide: str) -> None:
    force = spaces.Box(-9, 9, (2,), np.float32)
    actions = spaces.Dict({"force": force, "gear": spaces.Discrete(3)})
    write("mine/wide-v0", gymnasium.make(wide).spec, spaces.Box(-2, 2, (2,), np.float32), actions)
    assert main(["train", "--dataset", "mine/wide-v0", "bc", *TINY, "--eval-episodes", "2", "--out", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2", "--sample"]) == 0
    assert main(["collect", wide, "--policy", "run", "--sample", "--episodes", "3"]) == 0


def test_the_part_that_differs_is_named(wide: str, capsys: Capture) -> None:
    actions = spaces.Dict({"force": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(4)})
    write("mine/wide-v0", gymnasium.make(wide).spec, spaces.Box(-2, 2, (2,)), actions)
    assert main(["train", "--dataset", "mine/wide-v0", "bc", *TINY, "--out", "run"]) == 2
    wanted = "has action_space.gear Discrete(4), but env 'Wide-v0' has Discrete(3); train in the environment"
    assert wanted in capsys.readouterr().err


def test_data_sets_that_differ_in_widths_are_joined() -> None:
    pairs: list[tuple[str, Space[Any], Space[Any]]] = [
        ("mine/one-v0", spaces.Box(-1, 1, (2,), np.float32), spaces.MultiDiscrete([3, 2], np.int32)),
        ("mine/two-v0", spaces.Box(-5, 5, (2,), np.float64), spaces.MultiDiscrete([3, 2], np.int64)),
    ]
    for identity, observations, actions in pairs:
        write(identity, None, observations, actions, episodes=2)
    store = EpisodeStore([identity for identity, _, _ in pairs])
    read = [store.episode(index) for index in range(4)]
    assert {(each.observations.dtype, each.actions.dtype) for each in read} == {  # type: ignore[union-attr]
        (np.dtype(np.float32), np.dtype(np.int32))
    }


def test_data_sets_that_differ_in_bounds_are_joined_in_any_order() -> None:
    near = spaces.Box(-1, 1, (2,), np.float32)
    far = spaces.Box(-5000, 5000, (2,), np.float64)
    write("mine/near-v0", None, near, near, episodes=2)
    write("mine/far-v0", None, far, far, episodes=2)
    for ids in (["mine/near-v0", "mine/far-v0"], ["mine/far-v0", "mine/near-v0"]):
        store = EpisodeStore(ids)
        assert len(store) == 4
        for space in (store.observation_space, store.action_space):
            assert isinstance(space, spaces.Box)
            assert (space.low.min(), space.high.max()) == (-5000, 5000)


def test_of_two_dtypes_the_one_that_holds_both_is_joined() -> None:
    def box(low: float, high: float, dtype: Any) -> spaces.Box:
        return spaces.Box(low, high, (2,), dtype)

    pixels, counts = box(0, 255, np.uint8), box(0, 1000, np.int64)
    assert joined(pixels, counts) == joined(counts, pixels) == counts
    assert joined(pixels, box(0, 9, np.int64)) == pixels
    assert joined(box(-1, 1, np.float16), box(-2, 0, np.float64)) == box(-2, 1, np.float64)
    assert joined(box(-1, 1, np.float32), box(-1e300, 1e300, np.float64)) == box(-np.inf, np.inf, np.float32)
    large = box(2**63, 2**63 + 2**12, np.uint64)
    assert joined(counts, large) == box(0, 2**63 + 2**12, np.uint64)
    assert joined(box(-1, 1, np.int64), large) == box(-1, 2**63 - 1, np.int64)
    nested = spaces.Dict({"a": spaces.Tuple((pixels, spaces.Discrete(3)))})
    other = spaces.Dict({"a": spaces.Tuple((counts, spaces.Discrete(3)))})
    assert joined(nested, other) == other


class Farther(Wide):
    """Observations far outside the bounds of the data."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, *outcome = super().step(action)
        return np.full(2, 5000.0), *outcome  # type: ignore[return-value]


def test_agents_act_in_the_bounds_of_data_and_environment() -> None:
    write("mine/near-v0", None, spaces.Box(-1, 1, (2,), np.float32), Farther.action_space)
    run = ["train", f"{__name__}:Farther", "bc", "--dataset", "mine/near-v0", *TINY, "--eval-episodes", "2"]
    assert main([*run, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2", "--import", __name__]) == 0


# Files


def test_a_copied_data_set_is_named_by_its_folder(capsys: Capture) -> None:
    cartpole()
    shutil.copytree("data/mine/cartpole-v0", "data/mine/copy-v0")
    with h5py.File("data/mine/copy-v0/data/main_data.hdf5", "a") as file:
        for name in file:
            file[name]["rewards"][:] = np.nan
    assert main(["train", "--dataset", "mine/copy-v0", "bc", *TINY, "--out", "run"]) == 2
    line = capsys.readouterr().err
    assert "'mine/copy-v0'" in line
    assert "cartpole-v0" not in line
    Path("data/mine/copy-v0/data/main_data.hdf5").write_bytes(b"")
    Path("data/mine/copy-v0/data/main_data.hdf5").write_bytes(b"no HDF5")
    assert main(["train", "--dataset", "mine/copy-v0", "bc", *TINY, "--out", "run"]) == 2
    line = capsys.readouterr().err
    assert f"is damaged (Unable to synchronously open file (file signature not found)); remove {Path.cwd()}" in line
    assert "cartpole-v0" not in line


HOLD = "import h5py, sys, time; f = h5py.File(sys.argv[1], 'a'); print(1, flush=True); time.sleep(60)"


def test_a_locked_data_set_is_not_damaged() -> None:
    cartpole()
    path = "data/mine/cartpole-v0/data/main_data.hdf5"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UsageError, match=r"can't be read: .*another process is .*HDF5_USE_FILE_LOCKING"):
            EpisodeStore("mine/cartpole-v0")
        holder.kill()
    assert len(EpisodeStore("mine/cartpole-v0")) == 6


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"minari_version": "9.1.0"}, "it was written by Minari 9.1.0, which the installed .* pip install -U minari"),
        ({"minari_version": "0.3.1"}, "it was written by Minari 0.3.1, .* download a later version of the data set"),
        ({"data_format": "zarr"}, "its data_format is 'zarr', .* pip install -U minari"),
        ({"action_space": '{"type": "Graph"}'}, "its action_space has the type Graph, which Minari can't read"),
    ],
)
def test_other_versions_are_not_damage(facts: dict[str, object], message: str) -> None:
    change_metadata(cartpole(), **facts)
    with pytest.raises(UsageError, match=message) as raised:
        open_dataset("mine/cartpole-v0")
    assert "damaged" not in str(raised.value)


def test_a_space_that_a_module_taught_to_minari_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = cartpole()
    change_metadata(identity, observation_space=json.dumps({"type": "Cart", "sizes": 4}))
    with pytest.raises(UsageError, match="has the type Cart, which Minari can't read"):
        EpisodeStore(identity)

    def read(values: dict[str, Any]) -> Space[Any]:
        return spaces.Box(-9, 9, (values["sizes"],), np.float32)

    monkeypatch.setitem(deserialize_space.registry, "Cart", read)
    assert EpisodeStore(identity).observation_space == spaces.Box(-9, 9, (4,), np.float32)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("spoil", [put_folder, put_loop])
def test_what_the_system_cannot_open_is_not_damaged(spoil: Callable[[Path], None], capsys: Capture) -> None:
    cartpole()
    assert main(["train", "--dataset", "mine/cartpole-v0", "bc", *QUICK, "--out", "run"]) == 0
    for path in ("data/mine/cartpole-v0/data/metadata.json", "run/evaluation.json", "run/last.safetensors"):
        Path(path).touch()
        spoil(Path(path))
    capsys.readouterr()
    for arguments in (["train", "--dataset", "mine/cartpole-v0", "bc", "--out", "again"], ["evaluate", "run"]):
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert "damaged" not in line
        assert line.startswith("error: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up the rights of root")
def test_a_missing_permission_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        monkeypatch.setenv("MINARI_DATASETS_PATH", open_to_all)
        cartpole()
        Path(open_to_all, "mine/cartpole-v0/data/main_data.hdf5").chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(UsageError, match="can't be read: Permission denied; make it readable for this user"):
                EpisodeStore("mine/cartpole-v0")
        finally:
            os.seteuid(0)
