from __future__ import annotations

import json
import os
import pickle
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium
import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file

import rmt_rl
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.registry import agent_class
from rmt_rl.runs.checkpoint import (
    path_of,
    read_checkpoint,
    restore_agent,
    restore_optimizer,
    restore_state,
    save_agent,
)
from tests.tiny import in_process, start_process

SPEC = AgentSpec(gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(4), target_return=2.5, return_scale=0.5)


def make_agent(width: int = 8, value: float | None = None) -> Agent:
    cls = cast("type[Agent]", agent_class("bc"))
    agent = cls(cls.Config.model_validate({"width": width}), SPEC)
    if value is not None:
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.fill_(value)
    return agent


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    agent = make_agent()
    optimizer = torch.optim.AdamW(agent.parameters(), fused=True)
    for parameter in agent.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = (torch.randn(3, 2), (torch.arange(3), torch.randn(3, 1).bfloat16()))
    path = tmp_path / "last.safetensors"
    progress: dict[str, JsonValue] = {"best": None, "unlogged": [{"loss": 0.1}]}
    save_agent(path, agent, "bc", 7, progress=progress, optimizer=optimizer, state=state)
    saved = read_checkpoint(path)
    assert (saved.header.agent, saved.header.update, saved.header.progress) == ("bc", 7, progress)
    again = restore_agent(saved)
    assert again.spec == agent.spec
    assert again.config == agent.config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in agent.state_dict().items())
    other = torch.optim.AdamW(again.parameters(), fused=True)
    restore_optimizer(saved, other)
    for index, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, other.state_dict()["state"][index][key]) for key, value in values.items())
    restored = restore_state(saved, (torch.zeros(3, 2), (torch.zeros(3), torch.zeros(3, 1))))
    assert torch.equal(restored[0], state[0])
    assert torch.equal(restored[1][0], state[1][0])
    assert torch.equal(restored[1][1], state[1][1])
    with pytest.raises(UsageError, match="states of other shapes"):
        restore_state(saved, (torch.zeros(4, 2), (torch.zeros(4), torch.zeros(4, 1))))
    with pytest.raises(UsageError, match="states of other shapes"):
        restore_state(saved, (torch.zeros(3, 3), (torch.zeros(3), torch.zeros(3, 1))))
    with pytest.raises(UsageError, match="states of other shapes"):
        restore_state(saved, ())


def test_a_checkpoint_without_an_optimiser_acts_but_cannot_be_resumed(tmp_path: Path) -> None:
    save_agent(path_of(tmp_path, "best"), make_agent(), "bc", 7)
    assert isinstance(rmt_rl.load(tmp_path, "best"), Agent)
    saved = read_checkpoint(path_of(tmp_path, "best"))
    with pytest.raises(UsageError, match="holds no optimiser state"):
        restore_optimizer(saved, torch.optim.AdamW(restore_agent(saved).parameters()))


def test_a_damaged_optimiser_is_told(tmp_path: Path) -> None:
    agent = make_agent()
    optimizer = torch.optim.AdamW(agent.parameters())
    torch.stack([parameter.sum() for parameter in agent.parameters()]).sum().backward()
    optimizer.step()
    save_agent(path_of(tmp_path), agent, "bc", 1, optimizer=optimizer)
    saved = read_checkpoint(path_of(tmp_path))
    for damage in ({"optimizer/0/exp_avg": None}, {"optimizer/0/exp_avg_sq": torch.zeros(1, 3)}):
        tensors = {key: damage.get(key, value) for key, value in saved.tensors.items()}
        left = replace(saved, tensors={key: value for key, value in tensors.items() if value is not None})
        with pytest.raises(UsageError, match=r"last\.safetensors can't be used: the optimiser's state of parameter 0"):
            restore_optimizer(left, torch.optim.AdamW(agent.parameters()))


# Killed while writing


WIDTH = 512  # 1.5 MB


def save_for_ever(path: Path, started: Path) -> None:
    agent = make_agent(WIDTH)
    for update in range(1, 1_000_000):
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.fill_(update)
        save_agent(path, agent, "bc", update)
        started.touch()


def assert_whole(path: Path) -> int:
    """The checkpoint's weights are all of the update that its header names, which is returned."""
    saved = read_checkpoint(path)
    assert all((value == saved.header.update).all() for value in saved.group("model").values())
    restore_agent(saved)
    return saved.header.update


def test_a_kill_at_any_moment_of_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    random.seed(0)
    path, unfinished = tmp_path / "last.safetensors", 0
    for attempt in range(12):
        started = tmp_path / f"started-{attempt}"
        process = start_process(save_for_ever, path, started)
        while not started.exists():
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(random.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        unfinished += len(list(tmp_path.glob(".last.safetensors.*.tmp")))
        assert assert_whole(path) >= 1
    assert unfinished, "else no kill came in the middle of writing"


def die_at(call: str, path: Path, how: str) -> None:
    """Save over a checkpoint, killed or failing at a call to the operating system."""
    real = getattr(os, call)

    def dying(*arguments: Any, **options: Any) -> Any:
        if how == "after":
            real(*arguments, **options)
        if how == "error":
            raise OSError(5, os.strerror(5))
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, dying)
    try:
        save_agent(path, make_agent(WIDTH, 2.0), "bc", 2)
    except UsageError as error:
        sys.exit(2 if f"{path} can't be written: Input/output error" in str(error) else 1)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("how", ["before", "after", "error"])
def test_every_step_of_writing_may_be_the_last(call: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_agent(path, make_agent(WIDTH, 1.0), "bc", 1)
    assert in_process(die_at, call, path, how) == (2 if how == "error" else -signal.SIGKILL)
    assert assert_whole(path) == (2 if (call, how) == ("replace", "after") else 1)
    left = [file.name for file in tmp_path.iterdir() if file != path]
    if how == "error":
        assert not left, "no half-written file"
    save_agent(path, make_agent(WIDTH, 3.0), "bc", 3)
    assert assert_whole(path) == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "the next one clears up"


def outgrow(path: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save_agent(path, make_agent(WIDTH, 2.0), "bc", 2)
    except UsageError as error:
        sys.exit(2 if f"{path} can't be written: File too large; free some space" in str(error) else 1)


@pytest.mark.parametrize("limit", [0, 100, 1_000_000])
def test_a_full_disk_leaves_the_old_one(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_agent(path, make_agent(WIDTH, 1.0), "bc", 1)
    assert in_process(outgrow, path, limit) == 2
    assert assert_whole(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("place", ["file/run/x", "/proc/run/x", "folder"])
def test_a_place_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / place
    with pytest.raises(UsageError, match=f"{path} can't be written: .*choose another folder"):
        write_atomically(path, b"content")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


# What isn't a checkpoint


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def scramble(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})


def edit(path: Path, tensors: Callable[[dict[str, torch.Tensor]], Any] = lambda _: None, **changes: Any) -> None:
    from tests.tiny import header

    values, content = header(path) | changes, load_file(path)
    tensors(content)
    save_file(content, path, {"rmt_rl": json.dumps({key: value for key, value in values.items() if value is not None})})


def from_the_future(path: Path) -> None:
    edit(path, format=2)


def without_an_update(path: Path) -> None:
    edit(path, update=None)


def of_an_unknown_agent(path: Path) -> None:
    edit(path, agent="bcc")


def with_unknown_options(path: Path) -> None:
    edit(path, agent_options={"widht": 8})


def with_strange_spaces(path: Path) -> None:
    edit(path, observation_space='{"type": "Circle"}')


def of_another_width(path: Path) -> None:
    edit(path, agent_options={"width": 16})


def without_a_weight(path: Path) -> None:
    edit(path, lambda content: content.pop("model/to_action.weight"))


def with_a_list_as_header(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"rmt_rl": "[1]"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "is damaged"),
        (scramble, "is damaged"),
        (empty, "is damaged"),
        (Path.unlink, "doesn't exist; name the folder of a training run"),
        (make_foreign, "isn't of this toolkit's format 1"),
        (from_the_future, "isn't of this toolkit's format 1"),
        (with_a_list_as_header, "isn't of this toolkit's format 1"),
        (without_an_update, "update is missing"),
        (of_an_unknown_agent, "did you mean 'bc'"),
        (with_unknown_options, "did you mean 'width'"),
        (with_strange_spaces, "can't be used"),
        (of_another_width, "size mismatch"),
        (without_a_weight, "Missing key"),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = path_of(tmp_path)
    save_agent(path, make_agent(), "bc", 1)
    spoil(path)
    with pytest.raises(UsageError, match=message) as caught:
        rmt_rl.load(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path_of(tmp_path).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(UsageError, match="is damaged"):
        rmt_rl.load(tmp_path)
    torch.save(Bomb(trace), path_of(tmp_path))
    with pytest.raises(UsageError, match="is damaged"):
        rmt_rl.load(tmp_path)
    assert not trace.exists()


def test_an_unknown_device_is_named(tmp_path: Path) -> None:
    save_agent(path_of(tmp_path), make_agent(), "bc", 1)
    with pytest.raises(UsageError, match="device='qpu' can't be used"):
        rmt_rl.load(tmp_path, device="qpu")
    with pytest.raises(UsageError, match=r"run .*nowhere is no folder; name the folder of a training run"):
        rmt_rl.load(tmp_path / "nowhere")
