"""Learning histories: what is played while an agent learns becomes a data set, whole and in order, across stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import minari
import numpy as np
import pytest

from rmt_rl.acting.record import History
from rmt_rl.cli import main
from rmt_rl.data.writing import alone_making
from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import read_checkpoint
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.options import learner_class
from rmt_rl.training.loop import train
from tests.tiny import work_folder
from tests.training.test_ppo import TINY

PPO = f"train tmaze dlstm --learner ppo {TINY} --env.corridor-length 1 3"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        yield folder


def episodes(name: str) -> list[dict[str, int]]:
    """Return the marks of a data set's episodes."""
    dataset = minari.load_dataset(name)
    metadata = dataset.storage.get_episode_metadata(range(len(dataset)))
    return [{key: int(each[key]) for key in ("environment", "began", "total_steps", "id")} for each in metadata]


def check_is_whole(name: str) -> list[dict[str, int]]:
    """Fail unless each environment's episodes follow one another without a gap; return the marks of all."""
    marks = episodes(name)
    assert [each["id"] for each in marks] == list(range(len(marks)))
    ends = [each["began"] + 2 * each["total_steps"] for each in marks]  # of two environments
    assert all(one <= other for one, other in pairwise(ends))
    for environment in (0, 1):
        own = [each for each in marks if each["environment"] == environment]
        for one, other in pairwise(own):
            gap = other["began"] - one["began"] - 2 * one["total_steps"]
            assert gap == 0 or other["began"] % 16 == 0  # or a resumed run has begun new episodes
    return marks


def test_a_history_goes_on_when_its_run_is_prolonged(work: Path) -> None:
    assert main(f"{PPO} --total-timesteps 64 --save-every 16 --record tests/maze --out a".split()) == 0
    first = check_is_whole("tests/maze-v0")
    dataset = minari.load_dataset("tests/maze-v0")
    assert json.loads(dataset.storage.metadata["run"])["agent"] == "dlstm"
    assert dataset.env_spec is not None
    assert all(episode.terminations[-1] or episode.truncations[-1] for episode in dataset)
    assert read_checkpoint(Path("a/last.safetensors")).header.progress["recorded"] == len(first)
    file = Path("a/config.toml")
    file.write_text(file.read_text().replace("total_timesteps = 64", "total_timesteps = 128"))
    assert main(["train", "--resume", "a"]) == 0
    both = check_is_whole("tests/maze-v0")
    assert both[: len(first)] == first
    assert both[-1]["began"] > 64
    assert (
        main(
            [
                "train",
                "--dataset",
                "tests/maze-v0",
                "rate",
                "--updates",
                "1",
                "--batch-size",
                "4",
                "--eval-episodes",
                "0",
                "--out",
                "off",
            ]
        )
        == 0
    )
    assert not list(Path("data").glob(".unfinished*"))


def test_what_a_stopped_run_has_recorded_can_be_used(work: Path) -> None:
    config_of = f"{PPO} --total-timesteps 96 --save-every 96 --record tests/stopped"
    assert main(f"{config_of.replace('96', '16')} --out options".split()) == 0
    shutil.rmtree("data/tests/stopped-v0")
    config = read_config(Path("options"))
    longer = config.model_copy(update={"online": config.online.model_copy(update={"total_timesteps": 96})})  # type: ignore[attr-defined]
    made: list[int] = []
    train(longer, Path("b"), lambda update, _: made.append(update), lambda: bool(made and made[-1] >= 48))
    check_is_whole("tests/stopped-v0")
    stopped = len(episodes("tests/stopped-v0"))
    assert main(["train", "--resume", "b"]) == 0
    assert len(check_is_whole("tests/stopped-v0")) > stopped


def test_a_killed_run_goes_on_with_the_episodes_that_its_checkpoint_knows(work: Path) -> None:
    assert main(f"{PPO} --total-timesteps 32 --record tests/killed --out c".split()) == 0
    config = read_config(Path("c"))
    shutil.rmtree("data/tests/killed-v0")
    learner = learner_class("dlstm", "ppo")(config)
    try:
        learner.advance()
        known = learner.progress()
        header = learner.header(known)
        learner.advance()
        learner.progress()  # after the last checkpoint
    finally:
        learner.env.close()  # type: ignore[attr-defined] # and nothing else, as after a kill
        learner.history._lock.close()  # type: ignore[attr-defined]
    saved = read_checkpoint(Path("c/last.safetensors"))
    object.__setattr__(saved, "header", header)
    again = learner_class("dlstm", "ppo")(config, saved)
    again.close()
    assert len(episodes("tests/killed-v0")) == known["recorded"]
    changed = header.model_copy(update={"progress": header.progress | {"recorded": 999}})
    object.__setattr__(saved, "header", changed)
    with pytest.raises(Exception, match="its run has recorded 999 episodes"):
        learner_class("dlstm", "ppo")(config, saved)


@pytest.mark.parametrize("checkpoints", [0, 1])
def test_a_run_whose_checkpoint_could_not_be_written_goes_on(checkpoints: int, work: Path) -> None:
    name = f"full-{checkpoints}"
    assert main(f"{PPO} --total-timesteps 48 --save-every 16 --record tests/{name} --out {name}".split()) == 0
    shutil.rmtree(f"data/tests/{name}-v0")
    checkpoint, kept = Path(f"again-{name}/last.safetensors"), Path(f"{name}.safetensors")
    updates: list[int] = []

    def block() -> bool:
        if len(updates) == checkpoints:
            if checkpoint.exists():
                checkpoint.rename(kept)
            checkpoint.mkdir()  # no file can take its place
        return False

    with pytest.raises(UsageError, match="can't be written"):
        train(read_config(Path(name)), checkpoint.parent, lambda update, _: updates.append(update), block)
    checkpoint.rmdir()
    if kept.exists():
        kept.rename(checkpoint)
    assert main(["train", "--resume", str(checkpoint.parent)]) == 0
    assert check_is_whole(f"tests/{name}-v0")


def test_a_data_set_whose_writing_was_cut_off_is_written_anew(work: Path) -> None:
    assert main(f"{PPO} --total-timesteps 32 --record tests/cut --out h".split()) == 0
    whole = len(episodes("tests/cut-v0"))
    shutil.rmtree("data/tests/cut-v0")
    config, half = read_config(Path("h")), Path("data/.unfinished-tests.cut-v0/dataset")
    (half / "data").mkdir(parents=True)
    train(config, Path("i"))
    assert len(episodes("tests/cut-v0")) == whole
    assert not half.parent.exists()


def test_names_that_are_taken_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{PPO} --total-timesteps 32 --record tests/taken --out d".split()) == 0
    assert main(f"{PPO} --total-timesteps 32 --record tests/taken --out e".split()) == 2
    assert "record=tests/taken-v0: this data set exists" in capsys.readouterr().err
    with alone_making("tests/busy-v0"):
        assert main(f"{PPO} --total-timesteps 32 --record tests/busy --out e".split()) == 2
    assert "is being made by" in capsys.readouterr().err
    assert main(f"{PPO} --total-timesteps 32 --record a/b!c --out e".split()) == 2
    assert "malformed" in capsys.readouterr().err
    assert not Path("e").exists()


def test_agents_of_stable_baselines3_are_recorded_in_the_environments_own_spaces(work: Path) -> None:
    options = "--total-timesteps 64 --n-envs 2 --agent.n-steps 16 --agent.batch-size 16 --eval-episodes 0"
    assert main(f"train tmaze ppo {options} --env.corridor-length 1 3 --record tests/sb3 --out f".split()) == 0
    check_is_whole("tests/sb3-v0")


def test_an_undone_round_leaves_nothing(work: Path) -> None:
    assert main(f"{PPO} --total-timesteps 32 --record tests/undone --out g".split()) == 0
    shutil.rmtree("data/tests/undone-v0")
    learner = learner_class("dlstm", "ppo")(read_config(Path("g")))
    history = learner.history  # type: ignore[attr-defined]
    assert isinstance(history, History)
    learner.advance()
    kept = len(history.unsaved)
    history.add(history.unsaved[0])  # of a round that a signal stops
    assert history.save() == kept
    history.confirm()
    learner.close()
    assert len(episodes("tests/undone-v0")) == kept
    assert np.all([episode.rewards.shape == (len(episode),) for episode in minari.load_dataset("tests/undone-v0")])
