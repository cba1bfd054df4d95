"""What an experiment's runs reached, kept beside its table: a line of `results.jsonl` each.

Table and pictures are made of it, so that one config's runs can be made again without those of all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmt_rl.aggregate import Group, Run, grouped, read_run
from rmt_rl.files import write_atomically
from rmt_rl.plot import CURVES, draw, tabulate

FILE = "results.jsonl"
UNKEPT = ("episodes", "lanes", "seconds")  # of an evaluation


def update_results(runs: Sequence[Path], folder: Path, configs: Sequence[Path]) -> str:
    """Put runs in the place of all earlier ones of their configs; remake table and pictures, and return the table.

    Args:
        runs: folders of finished runs, named CONFIG-SEED.
        folder: of the experiment.
        configs: all of the experiment's, in the order of its table; what is kept of others is dropped.
    """
    folder.mkdir(exist_ok=True)
    path, order = folder / FILE, [config.stem for config in configs]
    lines = path.read_text().splitlines() if path.exists() else []
    again = {_config(run) for run in runs}
    kept = [run for run in map(_of_line, lines) if _config(run.path) not in again and _config(run.path) in order]
    kept += map(read_run, runs)
    kept.sort(key=lambda run: (order.index(_config(run.path)), run.seed))
    write_atomically(path, "".join(f"{_line(run)}\n" for run in kept).encode())
    return write_results(grouped(kept), folder)


def write_results(groups: Sequence[Group], folder: Path) -> str:
    """Write `table.md`, `learning.png` and `success.png` into a folder; returns the table."""
    text = tabulate(groups)
    (folder / "table.md").write_text(text + "\n")
    draw(groups, folder / "learning.png", ["learning"])
    draw(groups, folder / "success.png", ["evaluation"])
    return text


def _config(run: Path) -> str:
    return run.name.rpartition("-")[0]


def _line(run: Run) -> str:
    metrics = {name: run.metrics[name] for name in CURVES if name in run.metrics}
    results = [{name: one[name] for name in one if name not in UNKEPT} for one in run.results]
    facts = {"run": run.path.name, "seed": run.seed, "settings": run.settings, "metrics": metrics, "results": results}
    return json.dumps(facts)


def _of_line(line: str) -> Run:
    facts: dict[str, Any] = json.loads(line)
    metrics = {name: {int(at): value for at, value in curve.items()} for name, curve in facts["metrics"].items()}
    return Run(Path(facts["run"]), facts["seed"], facts["settings"], metrics, facts["results"])
