"""metrics.jsonl: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from rmt_rl.errors import UsageError
from rmt_rl.files import RESULTS_LIMIT, parse_json, read_text, write_atomically
from rmt_rl.runs.metrics import Metrics, Settings

METRICS = "metrics.jsonl"


class JSONLines:
    """Append metrics to `metrics.jsonl`. Lines of later updates than `update` are dropped.

    Raises:
        UsageError: the file is damaged, or the disk is full.
    """

    def __init__(self, run: Path, settings: Settings, update: int) -> None:
        self.path = run / METRICS
        write_atomically(self.path, "".join(_lines(self.path, update)).encode())

    def write(self, update: int, metrics: Metrics) -> None:
        line = json.dumps({"update": update, **metrics})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def close(self) -> None:
        """There is nothing to close."""


def _lines(path: Path, update: int) -> list[str]:
    """Return the lines up to an update, without a last line that a kill cut short."""
    if not path.exists():
        return []
    try:
        lines = read_text(path, RESULTS_LIMIT).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        return [line for line in whole if parse_json(line)["update"] <= update]
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); mend or remove it") from None


LOGGER = JSONLines
