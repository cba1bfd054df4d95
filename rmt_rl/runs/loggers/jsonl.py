"""metrics.jsonl: one JSON object a line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from rmt_rl.errors import UsageError
from rmt_rl.file_errors import unreadable
from rmt_rl.files import append, check_no_link, write_atomically
from rmt_rl.numbers import LARGEST_RESULT
from rmt_rl.reading import RESULTS_LIMIT, parse_json, read_text
from rmt_rl.runs.metrics import Metrics, Settings

METRICS = "metrics.jsonl"
RANGES = {"success_rate": (0, 1), "mean_length": (0, math.inf)}
"""The least and the largest value of metrics whose names end so."""


class Line(NamedTuple):
    """A line of `metrics.jsonl`."""

    update: int
    metrics: Metrics


def read_line(text: str) -> Line:
    """Return the update and the metrics of a line.

    Raises:
        ValueError: the line isn't an object of numbers with an update, or a number is out of range.
    """
    values = parse_json(text)
    if not isinstance(values, dict) or "update" not in values:
        raise ValueError("no object with an update")
    for name, value in values.items():
        check_metric(name, value)
    update = values.pop("update")
    if not isinstance(update, int) or not 0 <= update < 2**63:
        raise ValueError(f"update={update} is no number of updates")
    return Line(update, values)


def check_metric(name: str, value: object) -> None:
    """Raise a ValueError if a metric is no number, too large, or out of the range that its name implies."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"a value is no number: {name}={value!r}")
    if abs(value) > LARGEST_RESULT:
        raise ValueError(f"{name} is larger than {LARGEST_RESULT:g}")
    for ending, (least, most) in RANGES.items():
        if name.endswith(ending) and not least <= value <= most:
            raise ValueError(f"{name}={value} isn't from {least} to {most}")


class JSONLines:
    """Append metrics to `metrics.jsonl`. Lines of later updates than `update` are dropped.

    Raises:
        UsageError: the file is damaged or a link, or the disk is full.
    """

    def __init__(self, run: Path, settings: Settings, update: int) -> None:
        self.path = run / METRICS
        check_no_link(self.path)
        write_atomically(self.path, "".join(_lines(self.path, update)).encode())

    def write(self, update: int, metrics: Metrics) -> None:
        line = json.dumps({"update": update, **metrics})
        append(self.path, f"{line}\n")

    def close(self) -> None:
        """There is nothing to close."""


def _lines(path: Path, update: int) -> list[str]:
    """Return the lines up to an update, without a last line that a kill cut short."""
    if not path.exists():
        return []
    try:
        lines = read_text(path, RESULTS_LIMIT).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        return [line for line in whole if read_line(line).update <= update]
    except OSError as error:
        raise unreadable(str(path), error) or error from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); mend or remove it") from None


LOGGER = JSONLines
