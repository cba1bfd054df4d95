"""Weights, optimiser and carried state as the tensors of one safetensors file with a header of JSON. Never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.recurrence import Tree, tree_leaves


def named_tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None, state: Tree) -> dict[str, Tensor]:
    """All tensors of the three, as `model/NAME`, `optimizer/PARAMETER/NAME` and `state/LEAF`."""
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    if optimizer is not None:
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in values.items()}
    return tensors | {f"state/{index}": leaf for index, leaf in enumerate(tree_leaves(state))}


def group_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a group (`model`, `optimizer`, `state`) by their names in it."""
    prefix = name + "/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser, an Adam or AdamW, the state that the tensors of its group hold; its parameter groups stay.

    Raises:
        UsageError: of a parameter's state something is missing, or has another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        entries.setdefault(int(index), {})[name] = value
    for place, entry in entries.items():
        shapes = {name: tuple(value.shape) for name, value in sorted(entry.items())}
        shape = tuple(parameters[place].shape) if place < len(parameters) else ()
        if shapes != {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}:
            raise UsageError(f"the optimiser's state of parameter {place}, of shape {shape}, is {shapes}")
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, header: str) -> None:
    """Write a file at once; the header stands under a key that tells whose it is.

    Raises:
        UsageError: the file can't be written; an older one at the same path is untouched.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, save(plain, {key: header}))


def read_tensors(path: Path, key: str) -> tuple[str | None, dict[str, Tensor]]:
    """The header under this key, None where there's none, and all tensors; nothing of a file is ever executed.

    Raises:
        SafetensorError, OSError: the file is damaged or missing.
    """
    with safe_open(path, "pt") as file:
        # Copied, since the memory of a file is aligned differently, which may round differently.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - a file is no mapping
        return (file.metadata() or {}).get(key), tensors
