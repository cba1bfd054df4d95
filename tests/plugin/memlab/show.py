"""Print the newest value of each metric in a run's metrics.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rmt_rl.errors import UsageError


def show(arguments: Sequence[str]) -> int:
    """Print a line for each metric.

    Raises:
        UsageError: the run has no metrics.csv.
    """
    path = Path(*arguments, "metrics.csv")
    if not path.exists():
        raise UsageError(f"{path} doesn't exist; train with --logger lab_csv")
    with path.open(newline="") as file:
        newest = {name: value for _, name, value in csv.reader(file)}
    for name, value in newest.items():
        print(name, value)
    return 0


COMMAND = show
