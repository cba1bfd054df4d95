"""Checkpoints: one safetensors file with weights, optimiser and carried state, and a header of JSON. Never pickle.

A checkpoint is one file, which is replaced at once: whenever a run is killed, the folder holds a whole checkpoint. All
random numbers of a run follow from its seed and the update's number, so no state of a generator is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Generic, Literal, TypeVar

import torch
from pydantic import Field, JsonValue
from safetensors import SafetensorError
from torch import Tensor, nn

from rmt_rl.agent import AgentSpec, BaseAgent
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.file_errors import unreadable
from rmt_rl.files import check_is_text
from rmt_rl.machine import check_fits, memory_bytes
from rmt_rl.nn.model_size import count_weights
from rmt_rl.reading import check_regular, parse_json
from rmt_rl.recurrence import Tree, TreeT, tree_fill, tree_leaves
from rmt_rl.registry import agent_class
from rmt_rl.runs.shards import read_whole
from rmt_rl.runs.tensors import fill_optimizer, group_of, named_tensors, write_tensors
from rmt_rl.space_json import space_from_json, space_to_json

KEY = "rmt_rl"
_FORMAT = 1


class Header(Frozen):
    """The JSON of a checkpoint, beside its tensors: the progress of training, and in subclasses facts of the model."""

    format: Literal[1] = Field(1, description=f"{_FORMAT}, the format of this version")
    update: int = Field(ge=0, description="updates made")
    progress: dict[str, JsonValue]  # of the training run; empty if the run can't be resumed from this checkpoint


class AgentHeader(Header):
    """The header of an agent's checkpoint."""

    agent: str
    agent_options: dict[str, JsonValue]  # checked by the agent's own `Config`
    observation_space: str  # see `rmt_rl.space_json`
    action_space: str  # see `rmt_rl.space_json`
    target_return: float
    return_scale: float = Field(gt=0, description="a number above 0")
    hindsight_classes: int = Field(0, ge=0, description="the number of classes; 0: none")
    standardised: bool = False


HeaderT = TypeVar("HeaderT", bound=Header)


@dataclass(frozen=True)
class Checkpoint(Generic[HeaderT]):
    """The contents of a checkpoint file."""

    path: Path
    header: HeaderT
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a group (`model`, `optimizer`, `state`) by their names in it.

        Raises:
            UsageError: a number of one of them is NaN or infinite.
        """
        members = group_of(self.tensors, name)
        for key, tensor in members.items():
            if not tensor.isfinite().all():
                raise UsageError(
                    f"tensor {name}/{key} holds numbers that are NaN or infinite; use another checkpoint or train again"
                )
        return members


def path_of(run: str | Path, name: str = "last") -> Path:
    """Return the path of a run's checkpoint `last` or `best`."""
    return Path(run) / f"{name}.safetensors"


def agent_header(agent: BaseAgent, name: str, update: int, progress: Mapping[str, JsonValue]) -> AgentHeader:
    """Return the header of an agent's checkpoint.

    Args:
        agent: its options and spec are saved.
        name: the agent's name.
        update: number of updates made so far.
        progress: JSON values that resuming needs.
    """
    spec = agent.spec
    return AgentHeader(
        agent=name,
        agent_options=agent.config.model_dump(mode="json"),
        observation_space=space_to_json(spec.observation_space),
        action_space=space_to_json(spec.action_space),
        target_return=spec.target_return,
        return_scale=spec.return_scale,
        hindsight_classes=spec.hindsight_classes,
        standardised=spec.standardised,
        update=update,
        progress=dict(progress),
    )


def save_checkpoint(
    path: Path,
    header: Header,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    state: Tree = (),
) -> None:
    """Write a model, and the optimiser and states that resuming needs.

    Args:
        path: the file.
        header: facts of the model, and the progress of training.
        model: its weights are saved.
        optimizer: its state is saved, so that the run can be resumed.
        state: states of the core: carried from update to update, and kept memories.

    Raises:
        UsageError: the file can't be written; an older file at the same path is untouched.
    """
    write_tensors(path, named_tensors(model, optimizer, state), KEY, header.model_dump_json())


def save_agent(
    path: Path,
    agent: BaseAgent,
    name: str,
    update: int,
    *,
    progress: Mapping[str, JsonValue] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    state: Tree = (),
) -> None:
    """Write an agent's checkpoint; see `agent_header` and `save_checkpoint`."""
    save_checkpoint(path, agent_header(agent, name, update, progress or {}), agent, optimizer, state)


def read_checkpoint(path: Path) -> Checkpoint[AgentHeader]:
    """Read an agent's checkpoint; no code of the file is executed.

    Raises:
        UsageError: the file is missing, damaged, or not of this toolkit.
    """
    return read_checkpoint_of(AgentHeader, path)


def read_checkpoint_of(kind: type[HeaderT], path: Path) -> Checkpoint[HeaderT]:
    """Read a checkpoint with a header of class `kind`; no code of the file is executed.

    Raises:
        UsageError: the file is missing, damaged, not of this toolkit, or of another kind of model.
    """
    try:
        check_regular(path, memory_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"checkpoint {path} doesn't exist; name the folder of a training run that has saved one"
        ) from None
    check_is_text(path)
    try:
        header, tensors = read_whole(path, KEY)
        values = None if header is None else parse_json(header)
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(f"checkpoint {path}", error) or UsageError(
            f"checkpoint {path} is damaged ({error}); use another one or train again"
        ) from None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise UsageError(f"checkpoint {path} isn't of this toolkit's format {_FORMAT}; make one with rmt-rl train")
    with about(path):
        return Checkpoint(path, validated(kind, values), tensors)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Turn errors about a checkpoint's contents into a UsageError that names its file."""
    try:
        yield
    except (UsageError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
        reason = shorten(str(error), 400)  # PyTorch names every weight that doesn't fit
        raise UsageError(f"checkpoint {path} can't be used: {reason}") from error


def agent_options(header: AgentHeader) -> Frozen:
    """Return the options of a checkpoint's agent, checked; those that an earlier version lacked have its values.

    Raises:
        UsageError: the agent is unknown, or an option is unknown or out of range.
    """
    options: Frozen = validated(agent_class(header.agent).Config, header.agent_options)
    return options.with_earlier()


def restore_agent(checkpoint: Checkpoint[AgentHeader], device: str | torch.device = "cpu") -> BaseAgent:
    """Return the agent that a checkpoint holds.

    Raises:
        UsageError: the checkpoint's options or weights fit no known agent, a weight isn't finite, or there is no such
            device.
    """
    header = checkpoint.header
    with about(checkpoint.path):
        cls = agent_class(header.agent)
        spec = AgentSpec(
            space_from_json(header.observation_space),
            space_from_json(header.action_space),
            header.target_return,
            header.return_scale,
            header.hindsight_classes,
            header.standardised,
        )
        options = agent_options(header)
        check_fits("its agent", count_weights(lambda each: cls(each, spec), options).bytes, "use another machine")
        agent: BaseAgent = cls(options, spec)
        agent.load_state_dict(checkpoint.group("model"))
    try:
        return agent.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={str(device)!r} can't be used: {shorten(str(error), 200)}; choose cpu") from error


def restore_optimizer(checkpoint: Checkpoint[HeaderT], optimizer: torch.optim.Optimizer) -> None:
    """Restore the state of an optimiser.

    Raises:
        UsageError: the checkpoint holds no optimiser state, or one that doesn't fit or isn't finite.
    """
    with about(checkpoint.path):
        saved = checkpoint.group("optimizer")
    if checkpoint.header.update and not saved:
        raise UsageError(f"checkpoint {checkpoint.path} holds no optimiser state; only a run's last one can be resumed")
    with about(checkpoint.path):
        fill_optimizer(optimizer, saved)


def restore_state(checkpoint: Checkpoint[HeaderT], like: TreeT) -> TreeT:
    """Return the carried state, in the shape and on the device of the tree `like`.

    Raises:
        UsageError: the saved state has another shape, e.g. another batch size, or isn't finite.
    """
    with about(checkpoint.path):
        saved = checkpoint.group("state")
    leaves = tree_leaves(like)
    tensors = [saved.get(str(index), torch.empty(0)) for index in range(len(saved))]
    if [tensor.shape for tensor in tensors] != [leaf.shape for leaf in leaves]:
        raise UsageError(
            f"checkpoint {checkpoint.path} holds states of other shapes; resume with the feed and batch_size it was "
            "made with"
        )
    moved = [tensor.to(leaf.device) for tensor, leaf in zip(tensors, leaves, strict=True)]
    return tree_fill(like, moved)


def load_agent(run: str | Path, checkpoint: str = "last", device: str = "cpu") -> BaseAgent:
    """See `rmt_rl.load`."""
    if not Path(run).is_dir():
        raise UsageError(
            f"run {run} is no folder; name the folder of a training run (rmt-rl train ... --out). A zip file of "
            "Stable-Baselines3 isn't loaded, since loading executes pickled code: train here, or load it with "
            "Stable-Baselines3"
        )
    return restore_agent(read_checkpoint(path_of(run, checkpoint)), device)
