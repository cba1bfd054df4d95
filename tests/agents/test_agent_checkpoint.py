"""Every agent comes back from its checkpoint as it was; any other file is one UsageError and is never run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file

from rmt_rl import registry
from rmt_rl.agent import Agent, AgentConfig
from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import load_agent, path_of, save_agent
from tests.agents.examples import MIXED, SMALL, VECTOR, draw, make, variants

NESTED = spaces.Dict(
    {
        "vector": spaces.Box(np.array([-np.inf, 0.1], np.float32), np.array([1, np.inf], np.float32)),
        "image": spaces.Box(0, 255, (3, 9, 9), np.uint8),
        "parts": spaces.Tuple((spaces.Discrete(3, start=-1), spaces.MultiBinary([2, 2]))),
        "grid": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    }
)


def saved(path: Path, name: str = "rate", **options: Any) -> tuple[Agent, Path]:
    cls: Any = registry.agent_class(name)
    agent = make(cls, cls.Config.model_validate(SMALL | options))
    save_agent(path / "last.safetensors", agent, name, update=7)
    return agent, path / "last.safetensors"


@pytest.mark.parametrize(("cls", "config"), variants())
def test_a_loaded_agent_has_the_same_weights_and_acts_alike(
    cls: type[Agent], config: AgentConfig, tmp_path: Path
) -> None:
    agent = make(cls, config, NESTED, spaces.Dict(move=MIXED, flag=spaces.MultiBinary(2)))
    save_agent(path_of(tmp_path), agent, cls.__module__.rpartition(".")[2], update=3)
    loaded = load_agent(tmp_path)
    assert (type(loaded), loaded.config, loaded.spec) == (cls, config, agent.spec)
    weights, others = agent.state_dict(), loaded.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    state = other_state = None
    for _ in range(SMALL["segment_length"] + 2):
        observation = draw(NESTED, 2)
        action, state = agent.predict(observation, state)
        other, other_state = loaded.predict(observation, other_state)
        np.testing.assert_equal(other, action)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_is_refused_and_not_run(write: Any, tmp_path: Path) -> None:
    path, mark = path_of(tmp_path), tmp_path / "mark"
    write(Bomb(mark), path)
    with pytest.raises(UsageError, match="damaged"):
        load_agent(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -1000])
def test_a_file_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match=r"last\.safetensors.*damaged"):
        load_agent(tmp_path)


def test_damage_in_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    """Wherever a byte is changed, no other error than the one."""
    _, path = saved(tmp_path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 1 + len(whole) // 100):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            load_agent(tmp_path)
        except UsageError:
            refused += 1
    assert refused > 0


def test_missing_files_are_named(tmp_path: Path) -> None:
    for run in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=str(run)):
            load_agent(run)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path_of(tmp_path))
    with pytest.raises(UsageError, match="format"):
        load_agent(tmp_path)


def rewrite(path: Path, header: str) -> None:
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a file is no mapping
    save_file(tensors, path, {"rmt_rl": header})


def change(path: Path, **entries: Any) -> None:
    """Change entries of the header."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["rmt_rl"])
    rewrite(path, json.dumps(header | entries))


@pytest.mark.parametrize("header", ["[]", "7", "null", "{", "nonsense", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_header_that_is_none_of_ours_is_refused(header: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    rewrite(path, header)
    with pytest.raises(UsageError, match=str(path)):
        load_agent(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agent", "rat"),
        ("agent", 3),
        ("agent", "../train"),
        ("agent_options", {"widht": 12}),
        ("agent_options", {"width": "wide"}),
        ("agent_options", None),
        ("observation_space", '{"type": "Sphere"}'),
        ("observation_space", "{"),
        ("observation_space", None),
        ("action_space", '{"type": "Discrete"}'),
        ("action_space", '{"type": "Discrete", "n": 9, "start": 0}'),
        ("action_space", '{"type": "Text", "max_length": 1, "min_length": 1, "charset": "a"}'),
        ("target_return", "much"),
        ("return_scale", None),
    ],
)
def test_a_bad_entry_of_the_header_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    change(path, **{key: value})
    with pytest.raises(UsageError, match=str(path)):
        load_agent(tmp_path)


@pytest.mark.parametrize("options", [{"width": 16}, {"valve": "gru"}, {"layers": 3}, {"layers": 1}])
def test_weights_of_another_shape_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    change(path, agent_options=SMALL | options)
    with pytest.raises(UsageError, match=str(path)):
        load_agent(tmp_path)


def test_a_checkpoint_older_than_options_has_their_earlier_values(tmp_path: Path) -> None:
    agent, path = saved(tmp_path, **AgentConfig.EARLIER)
    change(path, agent_options=SMALL)
    loaded = load_agent(tmp_path)
    assert loaded.config == agent.config
    observation = draw(VECTOR, 2)
    np.testing.assert_equal(loaded.predict(observation)[0], agent.predict(observation)[0])


@pytest.mark.parametrize(("name", "other"), [("rate", "dt"), ("dt", "rate"), ("bc", "rate"), ("rate", "bc")])
def test_weights_of_another_agent_are_refused(name: str, other: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path, name)
    change(path, agent=other, agent_options=SMALL)
    with pytest.raises(UsageError, match=str(path)):
        load_agent(tmp_path)


def test_an_unwritable_path_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    agent, path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=str(path)):
        save_agent(path / "last.safetensors", agent, "rate", update=8)  # a file where a folder must be
    assert path.read_bytes() == before
