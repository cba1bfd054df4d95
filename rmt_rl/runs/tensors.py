"""Weights, optimiser and carried state as the tensors of one safetensors file with a header of JSON. Never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, as_tensor, nn
from torch.optim import Optimizer

from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.recurrence import Tree, tree_leaves

NamedTensors: TypeAlias = dict[str, Tensor]
Shape: TypeAlias = tuple[int, ...]


def named_tensors(model: nn.Module, optimizer: Optimizer | None, state: Tree) -> NamedTensors:
    """Return all tensors to save, named `model/NAME`, `optimizer/PARAMETER/NAME` and `state/LEAF`."""
    named = {}
    for name, value in model.state_dict().items():
        named[f"model/{name}"] = value
    if optimizer is not None:
        states = optimizer.state_dict()["state"]
        for parameter, values in states.items():
            for name, value in values.items():
                named[f"optimizer/{parameter}/{name}"] = as_tensor(value)
    for index, leaf in enumerate(tree_leaves(state)):
        named[f"state/{index}"] = leaf
    return named


def group_of(tensors: NamedTensors, group: str) -> NamedTensors:
    """Return the tensors of a group (`model`, `optimizer`, `state`) by their names in it."""
    prefix = f"{group}/"
    members = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            members[name.removeprefix(prefix)] = tensor
    return members


def fill_optimizer(optimizer: Optimizer, tensors: NamedTensors) -> None:
    """Restore the state of an Adam or AdamW from the tensors of its group; its parameter groups stay.

    Raises:
        UsageError: the state of a parameter is incomplete, or has another shape.
    """
    shapes: list[Shape] = []
    for group in optimizer.param_groups:
        shapes += map(_shape, group["params"])
    states = _states_by_parameter(tensors)
    for index, state in states.items():
        is_known = index < len(shapes)
        shape = shapes[index] if is_known else ()
        _check_moments(index, shape, state)
    whole = optimizer.state_dict()
    whole["state"] = states
    optimizer.load_state_dict(whole)


def _states_by_parameter(tensors: NamedTensors) -> dict[int, NamedTensors]:
    """Return the tensors of each parameter's index, from tensors named `PARAMETER/NAME`."""
    states: dict[int, NamedTensors] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition("/")
        state = states.setdefault(int(number), {})
        state[moment] = tensor
    return states


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)


def _check_moments(index: int, shape: Shape, state: NamedTensors) -> None:
    """Raise a UsageError unless a parameter's state holds both moments in the parameter's shape, and its step."""
    expected = {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}
    shapes: dict[str, Shape] = {}
    for name, tensor in sorted(state.items()):
        shapes[name] = _shape(tensor)
    if shapes != expected:
        raise UsageError(f"the optimiser's state of parameter {index}, of shape {shape}, is {shapes}")


def write_tensors(path: Path, tensors: NamedTensors, key: str, header: str) -> None:
    """Write a file at once; the header stands under a key that names the file's format.

    Raises:
        UsageError: the file can't be written; an older file at the same path is untouched.
    """
    write_atomically(path, encoded(tensors, {key: header}))


def encoded(tensors: NamedTensors, metadata: dict[str, str]) -> bytes:
    """Return the content of a safetensors file."""
    copies = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        copies[name] = whole.clone()
    return save(copies, metadata)


def read_tensors(path: Path) -> tuple[dict[str, str], NamedTensors]:
    """Return the metadata of a file, and all its tensors; no code of the file is executed.

    Raises:
        SafetensorError, OSError: the file is damaged or missing.
    """
    path.open("rb").close()  # which names an error of the system as such
    with safe_open(path, "pt") as file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118 - a file is no mapping
            tensor = file.get_tensor(name)
            # Copied, since the memory of a file is aligned differently, which may round differently.
            tensors[name] = tensor.clone()
        return file.metadata() or {}, tensors
