"""metrics.csv: a line `update,name,value` for each metric."""

from __future__ import annotations

import csv
from pathlib import Path

from rmt_rl.runs.metrics import Metrics, Settings

FILE = "metrics.csv"


class CSVLogger:
    """Append metrics to `metrics.csv`."""

    def __init__(self, run: Path, settings: Settings, update: int) -> None:
        self.path = run / FILE
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        rows = list(csv.reader(lines))
        self._write([row for row in rows if int(row[0]) <= update], "w")

    def write(self, update: int, metrics: Metrics) -> None:
        self._write([[str(update), name, str(value)] for name, value in metrics.items()], "a")

    def close(self) -> None:
        """There is nothing to close."""

    def _write(self, rows: list[list[str]], mode: str) -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file).writerows(rows)


LOGGER = CSVLogger
