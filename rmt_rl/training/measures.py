"""Measures of an update: accuracy, the size of the state, padding, finite or not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rmt_rl.data.segment import Segment
from rmt_rl.recurrence import Tree, tree_leaves
from rmt_rl.runs.metrics import Metrics
from rmt_rl.training.learner import Diverged, Measured
from rmt_rl.training.parallel import FabricProcesses


class Sums(NamedTuple):
    """Numbers of actions, over all processes, as tensors () on the device."""

    right: Tensor
    right_decisive: Tensor
    decisive: Tensor

    @property
    def decisive_accuracy(self) -> Tensor:
        """The share of right actions at decisive steps; NaN without a decisive step."""
        return self.right_decisive / self.decisive


def decisive_accuracy(updates: Iterable[Sums]) -> float | None:
    """Return the share of right actions at the decisive steps of several updates; None without such a step."""
    pairs = [torch.stack((sums.right_decisive, sums.decisive)) for sums in updates]
    if not pairs:
        return None
    right, decisive = torch.stack(pairs).sum(0).tolist()
    return right / decisive if decisive else None


class Counts:
    """Counts of right actions, of right actions at decisive steps, and of decisive steps: float32 (3,)."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(3, device=device)

    def add(self, segment: Segment, right: Tensor) -> None:
        """Count a segment; `right` is (B, K), 0 to 1, zero at padding."""
        self.values[0] += right.sum()
        if segment.decisive is None:
            return
        decisive = segment.decisive & segment.mask
        right_decisive = right * decisive
        counts = [right_decisive.sum(), decisive.sum()]
        self.values[1:] += torch.stack(counts)

    def sums(self, processes: FabricProcesses) -> Sums:
        """Return the counts of all processes; every process must call it."""
        whole = processes.sum(self.values)
        return Sums(*exact(whole).unbind())


def exact(value: Tensor) -> Tensor:
    """Return the value in the precision of Python's numbers; in float32 on Apple's GPUs, which know no other."""
    return value.float() if value.device.type == "mps" else value.double()


def read(measured: Sequence[Measured]) -> list[Metrics]:
    """Return the metrics of updates as numbers; the host waits once for the device that holds them."""
    tensors = []
    for entry in measured:
        tensors += [value for value in entry.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else ())

    def number(value: float | Tensor) -> float:
        return next(numbers) if isinstance(value, Tensor) else value

    return [{name: number(value) for name, value in entry.items()} for entry in measured]


def finite(metrics: Metrics) -> Metrics:
    """Return the metrics that are neither NaN nor infinite."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def check_finite(update: int, loss: float, norm: float, more: Metrics | None = None) -> None:
    """Raise Diverged if the loss or the gradient is NaN or infinite; the message holds the other metrics too."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    facts = [f"gradient norm {norm}"]
    for name, value in (more or {}).items():
        facts.append(f"{name} {value:g}")
    shown = ", ".join(facts)
    raise Diverged(f"the loss is {loss} ({shown}) at update {update}")


def mean_square(state: Tree, device: torch.device) -> Tensor:
    """Return the mean square of all floats of a state; 0 for an empty state."""
    floats = []
    for leaf in tree_leaves(state):
        if leaf.is_floating_point() and leaf.numel():
            values = leaf.flatten()
            floats.append(values.float())
    if not floats:
        return torch.zeros((), device=device)
    return torch.cat(floats).square().mean()


def padding(segments: Sequence[Segment], batch_size: int, real_steps: int) -> float:
    """Return the share of computed steps that are padding, in a whole batch of which `segments` may be a share."""
    computed_steps = batch_size * sum(segment.returns_to_go.shape[1] for segment in segments)
    return 1 - real_steps / computed_steps
