"""What an experiment's runs reached, kept beside its table: a line of `results.jsonl` each.

Table and pictures are made of it, so that one config's runs can be made again without those of all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rmt_rl.analysis.aggregate import Group, Run, group_runs, grouped_by, read_run
from rmt_rl.analysis.plot import CURVES, groups_table, plot_groups
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.runs.evaluation import READ
from rmt_rl.runs.options import read_config

FILE = "results.jsonl"
Row = dict[str, Any]
"""The config's name, the seed, settings, learning curves, results, and CPU seconds of a run."""


def row(run: Path) -> Row:
    """What is kept of a finished run, whose folder is named CONFIG-SEED."""
    read = read_run(run)
    return {
        "config": run.name.rpartition("-")[0],
        "seed": read.seed,
        "settings": read.settings,
        "metrics": {name: read.metrics[name] for name in CURVES if name in read.metrics},
        "results": [
            {"count": len(one.get("episodes", ()))} | {name: one[name] for name in READ} for one in read.results
        ],
        "cpu_seconds": cpu_seconds(run),
    }


def kept_rows(folder: Path, configs: Iterable[Path]) -> list[Row]:
    """The rows of these configs, which must be of the configs as they are now.

    Raises:
        UsageError: a config has none, or those of an older one; or the file is damaged.
    """
    path, found = folder / FILE, []
    rows = _read(path) if path.exists() else []
    for config in configs:
        own, now = [one for one in rows if one["config"] == config.stem], _settings(config)
        if not own:
            raise UsageError(f"{path} has no results of {config.stem}: make it too, with --only or without")
        for one in own:
            # Options that are new since then are left at their defaults.
            if other := [name for name, value in one["settings"].items() if now.get(name) != value]:
                what = f"with {', '.join(other)} other than in {config.name}"
                raise UsageError(f"{path} has results of {config.stem} {what}: make it again too")
        found += own
    return found


def update_results(folder: Path, rows: Iterable[Row], configs: Sequence[Path]) -> str:
    """Write `results.jsonl` and what is made of it; returns the table.

    Args:
        folder: of the experiment.
        rows: of its runs, those of configs with the settings that these have now.
        configs: in the order of the table.
    """
    folder.mkdir(exist_ok=True)
    settings = {config.stem: _settings(config) for config in configs}
    rows = sorted(rows, key=lambda one: (list(settings).index(one["config"]), one["seed"]))
    write_atomically(folder / FILE, "".join(f"{json.dumps(one)}\n" for one in rows).encode())
    return write_results(group_runs(_run(one, settings[one["config"]]) for one in rows), folder)


def write_results(groups: Sequence[Group], folder: Path) -> str:
    """Write `table.md`, `learning.png` and `success.png` into a folder; returns the table."""
    text = groups_table(groups)
    (folder / "table.md").write_text(text + "\n")
    plot_groups(groups, folder / "learning.png", ["learning"])
    plot_groups(groups, folder / "success.png", ["evaluation"])
    return text


def cpu_seconds(run: Path) -> dict[str, float]:
    """CPU seconds that a run of a suite took so far, to train and to evaluate."""
    path = run / "cpu.json"
    spent: dict[str, float] = json.loads(path.read_text()) if path.exists() else {"train": 0.0, "evaluate": 0.0}
    return spent


def _read(path: Path) -> list[Row]:
    fields, rows = {"config", "seed", "settings", "metrics", "results"}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            one = json.loads(line)
            if not fields <= set(one):
                raise ValueError("a field is missing")
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {number}, is damaged: {error}; make all results again") from None
        rows.append(one)
    return rows


def _settings(config: Path) -> dict[str, Any]:
    return grouped_by(read_config(config).model_dump(mode="json", exclude_none=True))


def _run(one: Row, settings: dict[str, Any]) -> Run:
    metrics = {name: {int(at): value for at, value in curve.items()} for name, curve in one["metrics"].items()}
    return Run(Path(f"{one['config']}-{one['seed']}"), one["seed"], settings, metrics, one["results"])
