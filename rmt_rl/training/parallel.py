"""Data parallel training: each of n processes takes every n-th sequence of a batch; the results equal one process's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rmt_rl.agent import Agent
from rmt_rl.data.segment import Batch
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree, TreeT, select_lanes, tree_map
from rmt_rl.runs.checkpoint import Header, save_checkpoint
from rmt_rl.runs.shards import remove_other_shards

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from rmt_rl.runs.options import TrainingConfig


class Processes:
    """A run in one process.

    Attributes:
        first: True in the process that logs, saves and reports.
        alone: True if there is no other process.
    """

    first: bool = True
    alone: bool = True

    def any(self, here: bool) -> bool:
        """Return True if `here` is True in any process."""
        return here

    def wait(self) -> None:
        """Wait until every process has come here."""

    def all_finite(self, model: nn.Module) -> bool:
        """Return True if all weights are finite; every process must call it."""
        are_finite = [torch.isfinite(parameter).all() for parameter in model.parameters()]
        return bool(torch.stack(are_finite).all())

    def whole(self, model: nn.Module) -> nn.Module:
        """Return the model with all weights, to act with; every process must call it."""
        return model

    def save(
        self,
        path: Path,
        header: Header,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        state: Tree = (),
    ) -> None:
        """Write a checkpoint; every process must call it. See `rmt_rl.runs.checkpoint.save_checkpoint`."""
        if self.first:
            save_checkpoint(path, header, model, optimizer, state)
            remove_other_shards(path)


class FabricProcesses(Processes):
    """A run in one or several processes, started and joined by lightning-fabric.

    Attributes:
        fabric: lightning-fabric's object, which knows the device and the number format.
        batch_size: sequences of the whole batch.
    """

    def __init__(self, options: TrainingConfig, batch_size: int) -> None:
        self.fabric = _fabric(options)
        self.batch_size = batch_size
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision(options.matmul_precision)

    @property
    def first(self) -> bool:  # type: ignore[override]  # known once the processes are started
        return self.fabric.is_global_zero

    @property
    def alone(self) -> bool:  # type: ignore[override]
        return self.fabric.world_size == 1

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.fabric.global_rank

    def launch(self) -> None:
        """Start the other processes."""
        self.fabric.launch()

    def prepare(self, model: Agent) -> None:
        """Move a model to this process's device, once all processes are started."""
        model.to(self.device)

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Do to an optimiser's state what `prepare` does to the weights."""

    def any(self, here: bool) -> bool:
        return here if self.alone else bool(self.sum(torch.tensor(float(here), device=self.device)))

    def wait(self) -> None:
        self.fabric.barrier()

    def sum(self, here: Tensor) -> Tensor:
        """Return the sum over all processes. Lightning would wait for all of them before, which costs as much again."""
        if self.alone:
            return here
        whole = here.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(whole)
        return whole

    def mean(self, here: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return self.sum(here) / self.fabric.world_size

    @property
    def rows(self) -> slice:
        """This process's sequences in the batch."""
        return slice(self.rank, None, self.fabric.world_size)

    def share(self) -> Tensor:
        """Return the indices of this process's sequences in the batch, int64."""
        return torch.arange(self.rank, self.batch_size, self.fabric.world_size, device=self.device)

    def own(self, batch: Batch) -> Batch:
        """Return this process's sequences of a batch, on its device; the feed may have drawn these alone."""
        batch = batch.to(self.device)
        is_whole = len(batch.fresh) == self.batch_size
        return batch.select(self.share()) if is_whole and not self.alone else batch

    def own_state(self, state: TreeT) -> TreeT:
        """Return this process's sequences of a state of the whole batch."""
        return select_lanes(state, self.share())

    def whole_state(self, state: TreeT) -> TreeT:
        """Return the state of the whole batch, from the sequences of all processes."""
        return state if self.alone else tree_map(self._whole, state)

    def _whole(self, leaf: Tensor) -> Tensor:
        """Return the tensor of the whole batch from this process's sequences; every process must call it."""
        whole = leaf.new_zeros(self.batch_size, *leaf.shape[1:])
        return self.sum(whole.index_copy(0, self.share(), leaf))

    def clip_gradient(self, parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
        """Sum the gradients of all processes, clip the norm of the sum, and return the norm before."""
        learning = [parameter for parameter in parameters if parameter.grad is not None]
        if not self.alone:
            gradients = [cast("Tensor", parameter.grad) for parameter in learning]
            vector_to_parameters(self.sum(parameters_to_vector(gradients)), gradients)
        return torch.nn.utils.clip_grad_norm_(learning, largest)


def _fabric(options: TrainingConfig) -> Fabric:
    """Return lightning-fabric's object, imported here since help and configs don't need it."""
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from rmt_rl.training.one_node import OneNode

    is_on_one_node = options.num_nodes == 1
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            precision=options.precision,
            strategy="ddp" if options.devices * options.num_nodes > 1 else "auto",
            # On one node, else it may join the tasks of a cluster, e.g. of Slurm. On several it asks the launcher.
            plugins=OneNode() if is_on_one_node else None,
        )
    except (MisconfigurationException, ImportError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"accelerator={options.accelerator!r}, devices={options.devices}: {error}; choose --accelerator auto "
            "or cpu, or fewer --devices"
        ) from error
