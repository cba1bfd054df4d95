"""Measures efficiency and computes costs: python -m experiments.scale.

Writes results.json here, and the tables between the marks of docs/scale.md.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro

from experiments.scale.costs import size_costs
from experiments.scale.data_costs import data_costs
from experiments.scale.report import report
from experiments.scale.sizes import SIZES, SMALL, Size
from experiments.scale.work import in_processes

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
BEGIN, END = "<!-- python -m experiments.scale writes from here -->", "<!-- to here -->"
STRATEGIES = {"RATE, small": SMALL, "RATE": SIZES["RATE"]}


def main(repeats: int = 3, updates: int = 4, again: bool = True) -> None:
    """Measure, and write the tables.

    Args:
        repeats: turns of the runs in one and in two processes.
        updates: timed in each.
        again: measure; otherwise write the tables from what was measured before.
    """
    if again:
        results = measured(SIZES, STRATEGIES, repeats, updates)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), report(results)), encoding="utf-8")


def measured(sizes: Mapping[str, Size], parallel: Mapping[str, Size], repeats: int, updates: int) -> dict[str, Any]:
    """Return all that the tables need."""
    torch.set_num_threads(1)
    load, _, _ = os.getloadavg()
    machine = {
        "processor": platform.processor() or platform.machine(),
        "load": f"{load:.1f} of {os.cpu_count()} cores busy when it began",
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        costs = {name: size_costs(size) for name, size in sizes.items()}
        shared = {name: efficiency(size, repeats, updates) for name, size in parallel.items()}
        largest = list(sizes)[-1]
        held = {largest: memory(sizes[largest])}
    return {"machine": machine, "efficiency": shared, "sizes": costs, "memory": held, "data": data_costs()}


def memory(size: Size) -> dict[str, dict[str, float]]:
    """Measure a process's memory in a run of two, by strategy; both batches hold one sequence for each process."""
    found = {}
    for strategy in ("ddp", "fsdp"):
        config = size.config(2, num_nodes=2, strategy=strategy)
        first, _ = in_processes(config.model_dump(mode="json", exclude_none=True), updates=1)
        found[strategy] = {name: first[name] for name in ("held_mb", "peak_mb")}
    return found


def efficiency(size: Size, repeats: int, updates: int) -> dict[str, dict[str, float]]:
    """Measure a run in one and in two processes, in turns; return medians by the number of processes."""
    turns: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    for _ in range(repeats):
        for count, found in turns.items():
            config = size.config(size.batch_size, num_nodes=int(count))
            ranks = in_processes(config.model_dump(mode="json", exclude_none=True), updates)
            found.append(_together(ranks))
    return {count: _medians(found) for count, found in turns.items()}


def _together(ranks: list[dict[str, float]]) -> dict[str, float]:
    """Return the speeds of all processes together, and what one of them sums."""
    first = ranks[0]
    cpu_seconds = sum(rank["cpu_seconds"] for rank in ranks)
    return {
        "speed": first["steps"] / first["seconds"],
        "cpu_speed": first["steps"] / cpu_seconds,
        "sums": first["sums"],
        "sum_bytes": first["sum_bytes"],
    }


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in found) for name in found[0]}


def with_tables(page: str, tables: str) -> str:
    """Return the page with these tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


if __name__ == "__main__":
    tyro.cli(main)
