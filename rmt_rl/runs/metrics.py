"""What a run logs: `metrics.jsonl`, one JSON object a line, and the same for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically

METRICS = "metrics.jsonl"
Metrics = dict[str, float]
Report = Callable[[int, Metrics], None]
"""Called with how far a run is, in updates or environment steps, and with what was logged then."""


class Log:
    """Both files, open to be added to after an update.

    Args:
        run: folder of the run.
        update: what an earlier process logged of later updates, before it was killed, is dropped.

    Raises:
        UsageError: what an earlier process logged is damaged, or the disk is full.
    """

    def __init__(self, run: Path, update: int) -> None:
        self.path = run / METRICS
        write_atomically(self.path, "".join(self._lines(update)).encode())
        with self._writing():
            self.board = SummaryWriter(str(run), purge_step=update + 1)

    def _lines(self, update: int) -> list[str]:
        """The lines up to an update; a last one cut short by a kill is dropped."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
            return [line for line in lines if line.endswith("\n") and json.loads(line)["update"] <= update]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.path} is damaged ({error}); mend or remove it") from None

    def write(self, update: int, metrics: Metrics) -> None:
        """Append one line."""
        with self._writing(), self.path.open("a") as file:
            file.write(json.dumps({"update": update, **metrics}) + "\n")
            for key, value in metrics.items():
                self.board.add_scalar(key, value, update)
            self.board.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            run = self.path.parent
            raise UsageError(
                f"{run} can't be written: {error.strerror}; free some space, then go on with --resume {run}"
            ) from error

    def close(self) -> None:
        """End the TensorBoard file."""
        with suppress(OSError):  # of a full disk, which was told already
            self.board.close()
