"""The interface of learners: what the training loop drives.

A learner makes updates and can save and restore itself. The loop (`rmt_rl.training.loop`) logs, evaluates, saves and
stops, and knows no algorithm. One learner a file; an agent's class names its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from rmt_rl.agent import BaseAgent
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint, Header
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.options import RunConfig
from rmt_rl.training.parallel import Processes

Measured: TypeAlias = Mapping[str, "float | Tensor"]
"""The metrics of an update. Tensors () stay on their device until a line of metrics is due, so that no update waits."""


class Diverged(UsageError):
    """The loss, the gradient or the weights became NaN or infinite."""


class Resumable(NamedTuple):
    """The tensors that a learner needs to go on, besides its model's weights."""

    optimizer: torch.optim.Optimizer
    state: Tree = ()  # of the core: what is carried from update to update


class Learner(Protocol):
    """An algorithm with its model, between two updates.

    Attributes:
        model: the network that learns.
        processes: the processes that share the work.
        remedy: advice for a diverged run.
    """

    remedy: ClassVar[str]

    @property
    def model(self) -> nn.Module: ...

    @property
    def processes(self) -> Processes: ...

    @property
    def made(self) -> int:
        """Updates, or environment steps, made so far."""

    @property
    def done(self) -> bool:
        """True at the end of the run."""

    def advance(self) -> Measured:
        """Make the next update, or round of updates; return what to log.

        Raises:
            Diverged: the loss, the gradient or the weights are NaN or infinite.
        """

    def check(self, update: int, metrics: Metrics) -> None:
        """Check the metrics of an update, which may be read several updates later, but before anything is saved.

        Raises:
            Diverged: the loss or the gradient was NaN or infinite.
        """

    def totals(self) -> Metrics:
        """Return what to log as it is when a line is written, e.g. tokens read so far; all else is logged as means."""

    def header(self, progress: dict[str, JsonValue]) -> Header:
        """Return what a checkpoint says of the model, with this progress."""

    def progress(self) -> dict[str, JsonValue]:
        """Return what `start` needs to resume, besides tensors."""

    def resumable(self) -> Resumable:
        """Return the tensors that `start` needs to resume; every process must call it."""

    def confirm(self) -> None:
        """Note that a checkpoint with the last `progress` is on disk."""

    def start(self, saved: Any = None) -> None:
        """Get ready for the first update, or for the update after a checkpoint with this learner's header.

        Raises:
            UsageError: the checkpoint doesn't fit the learner.
        """

    def remarks(self, evaluation: Evaluation | None) -> list[str]:
        """Return warnings about the finished run, whose last evaluation is given if it made one at its end."""

    def close(self) -> None:
        """Release what is held, e.g. environments."""


class AgentLearner(Learner, Protocol):
    """A learner whose model is an agent, made from a run's config.

    Attributes:
        Run: the class of its runs' configs.
    """

    Run: ClassVar[type[RunConfig]]

    def __init__(self, config: Any, saved: Checkpoint[AgentHeader] | None = None) -> None: ...

    @property
    def model(self) -> BaseAgent: ...

    @staticmethod
    def origin(config: Any) -> dict[str, JsonValue]:
        """Return what must be the same when the run is resumed."""

    def rehearse(self) -> list[str]:
        """Fail now if the device can't do what the run needs, before anything is written; return warnings."""
