"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from rmt_rl.runs.metrics import Metrics, Settings


class TensorBoard:
    """Write scalars to `events.out.tfevents*`. TensorBoard hides what an earlier process logged after `update`."""

    def __init__(self, run: Path, settings: Settings, update: int) -> None:
        self.writer = SummaryWriter(str(run), purge_step=update + 1)

    def write(self, update: int, metrics: Metrics) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, update)
        self.writer.flush()

    def close(self) -> None:
        with suppress(OSError):  # every update was flushed, so a full disk has been reported already
            self.writer.close()


LOGGER = TensorBoard
