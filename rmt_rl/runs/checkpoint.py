"""Checkpoints: one safetensors file with weights, optimiser and carried state, and a header of JSON. Never pickle.

Being one file it is replaced at once: whenever a run is killed, the folder holds a whole checkpoint. All random
numbers of a run follow from its seed and the update's number, so that number is all there is to save of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import torch
from minari.serialization import deserialize_space, serialize_space
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from rmt_rl.agent import AgentSpec, BaseAgent
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import tree_fill, tree_leaves
from rmt_rl.registry import agent_class
from rmt_rl.runs.tensors import fill_optimizer, group_of, named_tensors, read_tensors, write_tensors

_KEY, _FORMAT = "rmt_rl", 1


class Header(Frozen):
    """What a checkpoint says besides its tensors, as JSON."""

    format: Literal[1] = Field(description=f"{_FORMAT}, that of this version")
    agent: str
    agent_options: dict[str, Any]
    observation_space: str  # as Minari writes spaces
    action_space: str
    target_return: float
    return_scale: float
    hindsight_classes: int = 0
    update: int = Field(ge=0, description="updates made")
    progress: dict[str, Any]  # of the training run; empty in a checkpoint that isn't to be resumed


class Checkpoint(NamedTuple):
    """What a file holds."""

    path: Path
    header: Header
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of a group (`model`, `optimizer`, `state`) by their names in it."""
        return group_of(self.tensors, name)


def path_of(run: str | Path, name: str = "last") -> Path:
    """Where a run keeps its checkpoint `last` or `best`."""
    return Path(run) / f"{name}.safetensors"


def save_checkpoint(
    path: Path,
    agent: BaseAgent,
    name: str,
    update: int,
    *,
    progress: dict[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    state: Any = (),
) -> None:
    """Write an agent, and what resuming needs besides.

    Args:
        path: the file.
        agent: its weights, options and spec are saved.
        name: the agent's name.
        update: how many updates have been made.
        progress: JSON values to resume with.
        optimizer: its state, if the run is to be resumed.
        state: states of the core: what the lanes of a stream carry along, and kept memories.

    Raises:
        UsageError: the file can't be written; an older one at the same path is untouched.
    """
    spec = agent.spec
    header = Header(
        format=_FORMAT,
        agent=name,
        agent_options=agent.config.model_dump(mode="json"),
        observation_space=serialize_space(spec.observation_space),
        action_space=serialize_space(spec.action_space),
        target_return=spec.target_return,
        return_scale=spec.return_scale,
        hindsight_classes=spec.hindsight_classes,
        update=update,
        progress=progress or {},
    )
    write_tensors(path, named_tensors(agent, optimizer, state), _KEY, header.model_dump_json())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing of it is ever executed.

    Raises:
        UsageError: the file is missing, damaged, or none of ours.
    """
    if not path.is_file():
        raise UsageError(f"checkpoint {path} doesn't exist; name the folder of a training run that has saved one")
    try:
        header, tensors = read_tensors(path, _KEY)
        values = None if header is None else json.loads(header)
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"checkpoint {path} is damaged ({error}); use another one or train again") from None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise UsageError(f"checkpoint {path} isn't of this toolkit's format {_FORMAT}; make one with rmt-rl train")
    with _about(path):
        return Checkpoint(path, validated(Header, values), tensors)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Say of an error in which checkpoint it is."""
    try:
        yield
    except (UsageError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
        what = shorten(str(error), 400)  # of every weight that doesn't fit, PyTorch names each
        raise UsageError(f"checkpoint {path} can't be used: {what}") from error


def restore_agent(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> BaseAgent:
    """Make the agent that a checkpoint holds.

    Raises:
        UsageError: the checkpoint's options or weights fit no agent of ours, or there is no such device.
    """
    header = checkpoint.header
    with _about(checkpoint.path):
        cls = agent_class(header.agent)
        spec = AgentSpec(
            deserialize_space(header.observation_space),
            deserialize_space(header.action_space),
            header.target_return,
            header.return_scale,
            header.hindsight_classes,
        )
        agent: BaseAgent = cls(validated(cls.Config, header.agent_options), spec)
        agent.load_state_dict(checkpoint.group("model"))
    try:
        return agent.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={str(device)!r} can't be used: {shorten(str(error), 200)}; choose cpu") from error


def restore_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser the state it was saved with.

    Raises:
        UsageError: the checkpoint holds none.
    """
    saved = checkpoint.group("optimizer")
    if checkpoint.header.update and not saved:
        raise UsageError(f"checkpoint {checkpoint.path} holds no optimiser state; only a run's last one can be resumed")
    with _about(checkpoint.path):
        fill_optimizer(optimizer, saved)


def restore_state(checkpoint: Checkpoint, like: Any) -> Any:
    """The carried state, in the shape and on the device of the tree `like`.

    Raises:
        UsageError: it has another shape, e.g. another number of lanes.
    """
    saved, leaves = checkpoint.group("state"), tree_leaves(like)
    tensors = [saved.get(str(index), torch.empty(0)) for index in range(len(saved))]
    if [tensor.shape for tensor in tensors] != [leaf.shape for leaf in leaves]:
        raise UsageError(
            f"checkpoint {checkpoint.path} holds the states of other lanes; resume with the feed and batch_size it "
            "was made with"
        )
    return tree_fill(like, [tensor.to(leaf.device) for tensor, leaf in zip(tensors, leaves, strict=True)])


def load_agent(run: str | Path, checkpoint: str = "last", device: str = "cpu") -> BaseAgent:
    """See `rmt_rl.load`."""
    if not Path(run).is_dir():
        raise UsageError(
            f"run {run} is no folder; name the folder of a training run (rmt-rl train ... --out). A Stable-Baselines3 "
            "zip isn't loaded, since that executes pickled code: train here, or load it with Stable-Baselines3"
        )
    return restore_agent(read_checkpoint(path_of(run, checkpoint)), device)
