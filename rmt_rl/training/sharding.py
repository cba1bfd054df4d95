"""Fully sharded data parallel training (FSDP): each process keeps a part of the weights, gradients and Adam's moments.

A layer's weights are gathered before the layer runs, forward or backward, and freed behind it. So a process holds the
weights of one layer at a time, besides those outside of layers. Its gradients are summed over the processes, and each
process keeps the sum of its own part.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from rmt_rl.agent import Agent
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import SegmentRecurrent, Tree, clone
from rmt_rl.runs.checkpoint import KEY, Header
from rmt_rl.runs.options import TrainingConfig
from rmt_rl.runs.shards import Piece, write_first_shard, write_further_shard
from rmt_rl.runs.tensors import named_tensors
from rmt_rl.training.parallel import FabricProcesses

_INITIAL_STATE = "initial_state"
_TINY = 1e-6  # added to the norm, as PyTorch's clip_grad_norm_ does


class ShardedProcesses(FabricProcesses):
    """A run in several processes, none of which holds the whole of what Adam needs."""

    def __init__(self, options: TrainingConfig, batch_size: int) -> None:
        super().__init__(options, batch_size)
        self._kind: type[Agent] | None = None  # of the agent, before PyTorch changes its class

    def prepare(self, model: Agent) -> None:
        """Keep this process's part of an agent's weights alone; weights of no dimension can't be divided."""
        super().prepare(model)
        # The states of a core are views, and nothing is written into them while they have a gradient.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        self._kind = type(model)
        mesh = init_device_mesh(self.device.type, (self.fabric.world_size,))
        undivided = {parameter for parameter in model.parameters() if not parameter.ndim}
        for module in [*_layers(model), model]:
            fully_shard(module, mesh=mesh, ignored_params=undivided)
            _gather_for_initial_state(module)

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep this process's part of an optimiser's state alone."""
        for parameter, state in optimizer.state.items():
            if not isinstance(parameter, DTensor):
                continue
            for name, value in state.items():
                if value.ndim and not isinstance(value, DTensor):
                    state[name] = _divided(value, parameter)

    def clip_gradient(self, parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
        """Clip the norm of the gradient, of which each process has a part, and return the norm before."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        divided = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        undivided = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        for gradient in undivided:
            gradient.copy_(self.sum(gradient))
        torch._foreach_mul_(divided, self.fabric.world_size)  # backpropagation has left the mean
        square = self.sum(_square(divided, self.device)) + _square(undivided, self.device)
        norm = square.sqrt()
        factor = (largest / (norm + _TINY)).clamp(max=1.0)
        torch._foreach_mul_([*divided, *undivided], factor)
        return norm

    def all_finite(self, model: nn.Module) -> bool:
        here = [torch.isfinite(_local(parameter)).all() for parameter in model.parameters()]
        return not self.any(not torch.stack(here).all())

    def whole(self, model: nn.Module) -> Agent:
        """Return a copy of the agent with all weights, to act with; every process must call it."""
        assert self._kind is not None
        assert isinstance(model, Agent)
        with torch.random.fork_rng(devices=[]):
            copy = self._kind(model.config, model.spec)
        weights = {}
        for name, value in model.state_dict().items():
            weights[name] = value.full_tensor() if isinstance(value, DTensor) else value
        copy.load_state_dict(weights)
        return copy.to(self.device)

    def save(
        self,
        path: Path,
        header: Header,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        state: Tree = (),
    ) -> None:
        """Write a checkpoint in shards, one a process; every process must call it."""
        pieces = dict(self._pieces(named_tensors(model, optimizer, state)))
        name = error = None
        if not self.first:
            try:
                name = write_further_shard(path, self.rank, self.fabric.world_size, pieces)
            except UsageError as raised:
                error = str(raised)
        written = [(name, error)] * self.fabric.world_size
        dist.all_gather_object(written, (name, error))
        for _, error in written:
            if error:
                raise UsageError(error)
        if self.first:
            metadata = {KEY: header.model_dump_json()}
            write_first_shard(path, pieces, metadata, tuple(name for name, _ in written if name))

    def _pieces(self, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Piece]]:
        """Yield this process's pieces; what isn't divided is the first process's."""
        for name, tensor in tensors.items():
            shape = tuple(tensor.shape)
            if isinstance(tensor, DTensor):
                rows = math.ceil(shape[0] / self.fabric.world_size)
                yield name, Piece(tensor.to_local(), min(self.rank * rows, shape[0]), shape)
            elif self.first:
                yield name, Piece(tensor, 0, shape)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a model, the inner ones first."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.ModuleList):
            for layer in module:
                if isinstance(layer, SegmentRecurrent) and any(True for _ in layer.parameters()):
                    yield layer


def _divided(whole: Tensor, like: DTensor) -> Tensor:
    """Return this process's part of a tensor, divided as `like` is, in memory of its own."""
    own = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return torch.zeros_like(like).copy_(own)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _gather_for_initial_state(module: nn.Module) -> None:
    """Gather a module's weights before its initial state is made, as before it runs.

    The state is copied, since it may be a view of weights, which are freed then.
    """
    initial_state = cast("Callable[[int], Tree]", module.initial_state)

    def copied(batch_size: int) -> Tree:
        return clone(initial_state(batch_size))

    setattr(module, _INITIAL_STATE, copied)
    register_fsdp_forward_method(module, _INITIAL_STATE)


def _square(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return the sum of all squares, float32 ()."""
    squares = [tensor.float().square().sum() for tensor in tensors]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=device)
