"""Whatever a user gets wrong is told in one line that names it and the remedy; exit status 2, nothing left behind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.cli import main
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from tests.test_cli import TINY
from tests.tiny import weights, work_folder

STREAMS = ["--feed", "streams", "--updates", "2", "--eval-episodes", "0"]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with data sets and a run of their own."""
    with work_folder(tmp_path_factory) as folder:
        assert main(["train", "tmaze", "rate", *TINY, *STREAMS, "--agent.heads", "2", "--out", "run"]) == 0
        Path("file").touch()
        Path("empty").mkdir()
        yield folder


Capture = pytest.CaptureFixture[str]


def complaint(arguments: list[str], capsys: Capture) -> str:
    """The one line that a command fails with, but for the line that says which recipe a run begins with."""
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    told = shown.err.splitlines()
    lines = [line for line in told if line and "━" not in line and not line.startswith("recipe ")]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("error: ")
    return lines[0]


TRAIN = ["train", "tmaze", "rate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian' .*did you mean 'train'"),
        (["train"], "takes ENV AGENT before any options, not nothing; see rmt-rl list"),
        (["train", "tmaze"], "takes ENV AGENT before any options, not tmaze"),
        (["train", "tmaze", "rate", "dt"], "takes ENV AGENT before any options, not tmaze rate dt"),
        (["train", "tmase", "rate"], "unknown env 'tmase' .*did you mean 'tmaze'"),
        (["train", "tmaze", "rade"], "unknown agent 'rade' .*did you mean 'rate'"),
        (["collect", "tmase"], "unknown env 'tmase' .*did you mean 'tmaze'"),
        (["collect", "tmaze", "--episodes", "0"], "episodes=0: .*greater than or equal to 1"),
        (["collect", "tmaze", "--env.penalty", "1"], "env_options.penalty=1.0: .*less than or equal to 0"),
        ([*TRAIN, "--updates", "0"], "training.updates=0: .*greater than or equal to 1"),
        ([*TRAIN, "--seed", "-1"], "seed=-1: .*greater than or equal to 0"),
        ([*TRAIN, "--learning-rate", "inf"], "training.learning_rate=inf: .*finite"),
        (
            [*TRAIN, "--env.corridor-length", "0"],
            "env_options.corridor_length=0: .*a number >= 1, or an inclusive range",
        ),
        ([*TRAIN, "--env.corridor-length", "9", "3"], "corridor_length=.9, 3.: .*the shortest length comes first"),
        ([*TRAIN, "--agent.reads", "free", "--agent.cached", "3"], "choose reads=causal or cached=0"),
        ([*TRAIN, "--devices", "3"], "devices=3 can't share batch_size=64"),
        (["train", "--dataset"], "--dataset : give a data set's id and an agent"),
        (["train", "rate", "--dataset"], "--dataset rate: give a data set's id and an agent"),
        ([*TRAIN, "--dataset", "nobody/nothing-v0"], "data set 'nobody/nothing-v0' is not below .*rmt-rl collect"),
        ([*TRAIN, *TINY, "--accelerator", "abacus"], "accelerator='abacus'.*choose --accelerator auto or cpu"),
        ([*TRAIN, *TINY, "--accelerator", "tpu"], "accelerator='tpu'.*choose --accelerator auto or cpu"),
        (["train", "tmaze", "rate", *TINY, "--agent.segment-length", "10", "--ageing", "1"], "turn memory ageing off"),
        (["train", "tmaze", "bc", *TINY, "--ageing", "1"], "ageing=1: agent 'bc' carries no state that could age"),
        (["train", "tmaze", "bc_lstm", *TINY, "--hide-actions", "0.5"], "hide_actions=0.5: the agent sees no actions"),
        (["train", "tmaze", "bc", *TINY, "--out", "run"], "out=run holds a run already; resume it"),
        (
            ["train", "tmaze", "bc", *TINY, "--out", "file"],
            r"file can't be written to \(Not .*choose another folder",
        ),
        (["train", "tmaze", "bc", *TINY, "--out", "file/x"], r"file/x can't be written to \(Not a directory\)"),
        (["train", "tmaze", "bc", *TINY, "--out", "/proc/x"], "/proc/x can't be written to"),
        (
            ["train", "tmaze", "bc", *TINY, "--out", "x" * 300],
            "can't be written to .File name too long.; choose another folder",
        ),
        (["train", "--config", "nowhere.toml"], "nowhere.toml can't be read .*name a config.toml or a run's folder"),
        (["train", "--config", "empty"], "empty/config.toml can't be read"),
        (["train", "--resume", "empty"], "empty/config.toml can't be read .*name a config.toml or a run's folder"),
        (["train", "--resume", "nowhere"], "nowhere can't be read"),
        (["train", "--resume", "run", "--updates", "9"], "--resume run takes no other options"),
        (["evaluate", "empty"], "empty/config.toml can't be read"),
        (["evaluate", "run", "--checkpoint", "best"], "best.safetensors doesn't exist"),
        (["evaluate", "run", "--episodes", "0"], "episodes=0: .*greater than or equal to 1"),
        (["evaluate", "run", "--vary", "coridor_length=3"], "unknown option coridor_length.*'corridor_length'"),
        (["evaluate", "run", "--vary", "corridor_length=3,0"], "corridor_length=0"),
        (["evaluate", "run", "--vary", "corridor_length"], "--vary 'corridor_length': give it as NAME=VALUE,VALUE"),
        (["evaluate", "run", "--device", "qpu"], "device='qpu' can't be used: .*choose cpu"),
        (["plot"], "no runs were given; name folders"),
        (["plot", "empty"], "empty"),
        (["plot", "run"], "no evaluation to draw; evaluate one with `rmt-rl evaluate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_names_what_is_wrong(arguments: list[str], message: str, capsys: Capture) -> None:
    before = sorted(Path().glob("*"))
    assert re.search(message, complaint(arguments, capsys))
    assert sorted(Path().glob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([*TRAIN, "--updatse", "3"], ["--updatse", "--updates"]),
        ([*TRAIN, "--agent.valv", "gru"], ["--agent.valv", "--agent.valve"]),
        ([*TRAIN, "--agent.valve", "gruu"], ["gruu", "ca-2", "gru"]),
        ([*TRAIN, "--updates", "many"], ["--updates", "many"]),
        ([*TRAIN, "--env.corridor-length", "long"], ["--env.corridor-length", "long"]),
        ([*TRAIN, "--config"], ["--config"]),
        (["evaluate"], ["folder of the run"]),
        (["evaluate", "run", "--checkpoint", "worst"], ["worst", "last", "best"]),
        (["list", "envs"], ["envs"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_command_line_that_cannot_be_read_is_shown(arguments: list[str], shown: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert all(part in text for part in shown), text
    assert "Traceback" not in text


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_a_missing_extra_gives_the_pip_command(capsys: Capture) -> None:
    line = complaint([*TRAIN, *TINY, "--agent.attention", "flash"], capsys)
    assert "pip install 'rmt-rl[flash]'" in line
    assert not Path("runs").exists()


# Data sets


def write(identity: str, space: spaces.Box, length: int = 5) -> Path:
    """A data set of 20 episodes."""
    ends = np.arange(length) == length - 1
    observations = np.zeros((length + 1, *space.shape), np.float32)
    episode = Trajectory(observations, np.zeros(length, np.int64), ends * 1.0, ends, np.zeros(length, bool))
    write_dataset(
        identity,
        [episode] * 20,
        env_spec=None,
        observation_space=space,
        action_space=spaces.Discrete(4),
        algorithm_name="none",
        description="Zeros.",
    )
    return Path("data", identity, "data")


LOW, HIGH = np.array([-1, -1, 0, -1], np.float32), np.ones(4, np.float32)


def train_on(identity: str) -> list[str]:
    return ["train", "tmaze", "bc", *TINY, "--dataset", identity, "--out", identity.replace("/", "-")]


def test_a_data_set_of_other_spaces(capsys: Capture) -> None:
    write("other/spaces-v0", spaces.Box(-1, 1, (7,), np.float32))
    line = complaint(train_on("other/spaces-v0"), capsys)
    assert "dataset=other/spaces-v0 has observation_space Box(-1.0, 1.0, (7,), float32), but env 'tmaze' has" in line
    assert "with the same options" in line


def test_a_data_set_of_other_env_options(capsys: Capture) -> None:
    write("fits/tmaze-v0", spaces.Box(LOW, HIGH))
    assert main([*train_on("fits/tmaze-v0"), "--updates", "1", "--eval-episodes", "0"]) == 0
    arguments = [*train_on("fits/tmaze-v0"), "--env.no-ambiguous-position", "--out", "elsewhere"]
    assert "has observation_space" in complaint(arguments, capsys)


def cut(data: Path) -> None:
    file = data / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(data: Path) -> None:
    (data / "main_data.hdf5").unlink()


def drop_all(data: Path) -> None:
    import json

    with h5py.File(data / "main_data.hdf5", "a") as file:
        for name in list(file):
            del file[name]
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps(metadata | {"total_episodes": 0, "total_steps": 0}))


def put_nan(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        for name in file:
            file[name]["observations"][2] = np.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "is damaged .*collect or download it again"),
        (remove, "is damaged .*collect or download it again"),
        (drop_all, "is empty; remove .* and collect or download it again"),
        (put_nan, "observations is not finite at step 2"),
        (shutil.rmtree, "is not below .*make it with `rmt-rl collect`"),
    ],
)
def test_a_spoilt_data_set(spoil: Callable[[Path], None], message: str, capsys: Capture) -> None:
    identity = f"spoilt/{spoil.__name__.replace('_', '-')}-v0"
    spoil(write(identity, spaces.Box(LOW, HIGH)))
    line = complaint(train_on(identity), capsys)
    assert identity in line
    assert re.search(message, line)
    assert not Path(identity.replace("/", "-")).exists()


def test_nan_that_turns_up_later_stops_the_run_with_its_checkpoint_intact(capsys: Capture) -> None:
    data = write("later/nan-v0", spaces.Box(LOW, HIGH))
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_19"]["observations"][2] = np.nan
    (data / "metadata.json").touch()  # so that the data look as they were written
    flags = [
        "--batch-size",
        "1",
        "--save-every",
        "1",
        "--eval-episodes",
        "0",
        "--updates",
        "20",
        "--bucket-batches",
        "1",
        "--no-standardise",  # or the mean of the data would tell before training
    ]
    line = complaint([*train_on("later/nan-v0"), *flags], capsys)
    assert "data set 'later/nan-v0', episode 19: observations is not finite at step 2" in line
    assert weights(Path("later-nan-v0")).isfinite().all()


def test_a_folder_of_data_sets_that_cannot_be_made(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/proc/data")
    line = complaint(["collect", "tmaze", "--episodes", "1"], capsys)
    assert "MINARI_DATASETS_PATH" in line
    assert "/proc/data" in line


# Runs


def spoil_checkpoint(run: Path) -> None:
    (run / "last.safetensors").write_bytes(b"nonsense")


def change_agent(run: Path) -> None:
    edit(run, "width = 16", "width = 8")


def change_batch(run: Path) -> None:
    edit(run, "batch_size = 8", "batch_size = 4")


def spoil_config(run: Path) -> None:
    edit(run, "updates = 2", "updates = -2")


def spoil_metrics(run: Path) -> None:
    (run / "metrics.jsonl").write_text("nonsense\n")


def spoil_bytes_of_metrics(run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n")


def put_a_list_into_metrics(run: Path) -> None:
    (run / "metrics.jsonl").write_text("[1]\n")


def edit(run: Path, old: str, new: str) -> None:
    text = (run / "config.toml").read_text()
    assert old in text
    (run / "config.toml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_checkpoint, "last.safetensors is damaged .*train again"),
        (change_agent, "is of another agent than .*config.toml says; undo what was changed there"),
        (change_batch, "holds states of other shapes; resume with the feed and batch_size it was made with"),
        (spoil_config, "training.updates=-2: .*greater than or equal to 1"),
        (spoil_metrics, "metrics.jsonl is damaged .*mend or remove it"),
        (spoil_bytes_of_metrics, "metrics.jsonl is damaged .*mend or remove it"),
        (put_a_list_into_metrics, "metrics.jsonl is damaged .*mend or remove it"),
    ],
)
def test_resuming_a_spoilt_run(spoil: Callable[[Path], None], message: str, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    shutil.copytree("run", run)
    spoil(run)
    assert re.search(message, complaint(["train", "--resume", str(run)], capsys))
