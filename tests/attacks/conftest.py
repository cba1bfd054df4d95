from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, Share
from rmt_rl.cli import main
from rmt_rl.plugins import trusted
from rmt_rl.registry import trust_specs
from tests.attacks.scene import PAYLOAD, PRECIOUS, Scene
from tests.tiny import work_folder

TRAIN = "train tmaze rate --agent.width 16 --agent.heads 2 --agent.layers 1 --agent.segment-length 4 --batch-size 4"
SHORT = "--collect-episodes 20 --updates 2 --eval-episodes 2 --eval-every 1 --accelerator cpu --logger jsonl --out run"


@pytest.fixture(scope="session")
def received(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained run and with data sets of T-Maze and of CartPole, in their harmless state."""
    with work_folder(tmp_path_factory) as folder:
        assert main([*TRAIN.split(), *SHORT.split(), "--env.corridor-length", "2", "10"]) == 0
        assert main(["evaluate", "run", "--episodes", "2", "--vary", "corridor_length=3,5"]) == 0
        random = Behaviour((Share("random"),))
        collect("CartPole-v1", {}, episodes=3, seed=0, behaviour=random)
    return folder


@pytest.fixture
def scene(received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Yield a fresh copy of what was received, as the current folder, which Python has on its path.

    Fails afterwards if a planted module was imported, or if a file outside of the folder was changed.
    """
    here = tmp_path / "here"
    shutil.copytree(received, here)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    victim = elsewhere / "precious"
    victim.write_text(PRECIOUS)
    (here / "payload.py").write_text(PAYLOAD)
    monkeypatch.chdir(here)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(here / "data"))
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    before = set(sys.modules)
    yield Scene(here, victim)
    trust_specs(False)
    imported = [name for name in set(sys.modules) - before if "payload" in name or "planted" in name]
    for name in imported:
        del sys.modules[name]
    trusted("rmt_rl.envs")
    assert not imported, f"modules of a stranger were imported: {imported}"
    assert not (here / "ran").exists(), "a stranger's code ran"
    assert victim.read_text() == PRECIOUS, "a file elsewhere was changed"
    assert [file.name for file in elsewhere.iterdir()] == [victim.name], "a file elsewhere was made"
