"""Progress of a sweep: a line for each cell that ends, and on a terminal a table of those that run."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rmt_rl.runs.loggers.jsonl import METRICS, read_line
from rmt_rl.sweeps.engine import Job, Outcome
from rmt_rl.terminal import complain, plain, say

_SCORES = ("eval/success_rate", "eval/mean_return", "train/loss")
_TAIL = 8192  # bytes of the metrics that are read to find the last line
_MOST_ROWS = 30


class SweepProgress:
    """Reports a sweep: finished cells on standard output, the running ones on a terminal's standard error."""

    def __init__(self, out: Path, cells: int) -> None:
        self.out = out
        self.cells = cells
        self.counts: Counter[str] = Counter()
        self.console = Console(stderr=True)
        self.live = Live(
            console=self.console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.began: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.live.stop()

    def kept(self, job: Job) -> None:
        self._tell("finished before", job, "")

    def ended(self, job: Job, outcome: Outcome) -> None:
        word = "finished" if outcome.is_done else "stopped" if outcome.is_stopped else "failed"
        self._tell(word, job, _last_metrics(job.run))

    def under_way(self, running: set[str]) -> None:
        if not (running and self.console.is_interactive):
            return
        now = time.monotonic()
        for name in running:
            self.began.setdefault(name, now)
        table = Table(box=None)
        for heading in ("running", "minutes", "metrics"):
            table.add_column(heading, justify="left", no_wrap=True)
        for name in sorted(running)[:_MOST_ROWS]:
            minutes = (now - self.began[name]) / 60
            table.add_row(Text(plain(name)), f"{minutes:.1f}", Text(_last_metrics(self.out / name)))
        self.live.start()
        self.live.update(Group(self._title(len(running)), table), refresh=True)

    def _title(self, running: int) -> str:
        ended = sum(self.counts.values())
        parts = [f"{count} {word}" for word, count in self.counts.items()]
        return ", ".join([*parts, f"{running} running", f"{self.cells - ended - running} waiting"])

    def _tell(self, word: str, job: Job, metrics: str) -> None:
        self.counts[word] += 1
        self.live.stop()
        ended = sum(self.counts.values())
        line = f"[{ended}/{self.cells}] {word}: {self.out / job.name}"
        say(f"{line}  {metrics}" if metrics else line, flush=True)


def tell_failures(failed: Sequence[Outcome], own: Path) -> int:
    """Print a line for each failed cell; return the exit status."""
    for outcome in failed:
        reason = outcome.error or f"exit status {outcome.status}"
        complain(f"failed: {outcome.name}: {reason} (see {own / outcome.name}.log)")
    return 1 if failed else 0


def _last_metrics(run: Path) -> str:
    """Return the newest metrics of a run in a few words; nothing if it has logged none."""
    with suppress(OSError, ValueError, IndexError), (run / METRICS).open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        update, metrics = read_line(file.read().splitlines()[-1].decode())
        words = [f"at {update}"]
        for name in _SCORES:
            if name in metrics:
                words.append(f"{name.partition('/')[2].replace('_', ' ')} {metrics[name]:.4g}")
        return "  ".join(words)
    return ""
