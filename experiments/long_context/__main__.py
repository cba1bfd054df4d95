"""Remakes the table and the pictures of this folder: python -m experiments.long_context."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.long_context import evaluate
from experiments.long_context.options import FILE
from experiments.long_context.report import row, write_results
from experiments.long_context.tasks import STORIES
from rmt_rl.files import write_atomically

FOLDER = Path(__file__).parent
TOKENS = {"memorise": 15_000_000, "detect": 60_000_000, "reason": 90_000_000}  # with segments of 64
TOKENS_499 = 30_000_000  # then, with segments of 499
WHOLE = 128  # segments that full attention is tested at, at most


@dataclass(frozen=True)
class Cell:
    """A run: its name, the arguments of its training but for `--out`, and the longest test."""

    name: str
    arguments: tuple[str, ...]
    longest: int = 4096
    start: str | None = None


def plan() -> list[list[Cell]]:
    """Chains of runs, of which each may begin with the weights of the one before."""
    chains = []
    for task in STORIES:
        budget = ("--tokens", str(TOKENS[task]))
        for memory in ("valve", "tokens", "mac"):
            short = Cell(f"{task}-{memory}-64", (task, "--memory", memory, *budget))
            to_499 = ("--segment", "499", "--tokens", str(TOKENS_499), "--segments", "2", "--learning-rate", "5e-4")
            long = Cell(f"{task}-{memory}-499", (task, "--memory", memory, *to_499), start=short.name)
            chains.append([short, long])
        for feed in ("curriculum", "full"):
            arguments = (task, "--memory", "valve", "--feed", feed, *budget)
            chains.append([Cell(f"{task}-valve-64-{feed}", arguments)])
        whole = (task, "--memory", "none", "--feed", "curriculum", *budget)
        chains.append([Cell(f"{task}-none-64", whole, longest=WHOLE)])
    return chains


def main(
    only: str = "", jobs: int = 2, runs: Path = Path("runs/long_context"), draw: bool = False, folder: Path = FOLDER
) -> None:
    """Train, evaluate, tabulate, plot; what is finished isn't done again.

    Args:
        only: just the chains of runs whose first one's name begins so, e.g. "detect-valve"; others' results are kept.
        jobs: processes at once, one thread each.
        runs: where the runs go.
        draw: make the table and the pictures of `results.json` and nothing else.
        folder: where `results.json`, table and pictures go.
    """
    path = folder / "results.json"
    rows = {one["run"]: one for one in json.loads(path.read_text())} if path.exists() else {}
    chains = [chain for chain in plan() if chain[0].name.startswith(only)]
    if not draw:
        with ThreadPoolExecutor(jobs) as pool:
            for chain in pool.map(lambda chain: _run_chain(chain, runs), chains):
                rows |= {run.name: row(run) for run in chain}
                order = {cell.name: place for place, cell in enumerate(cell for each in plan() for cell in each)}
                kept = sorted(rows.values(), key=lambda one: order.get(one["run"], len(order)))
                write_atomically(path, (json.dumps(kept, indent=1) + "\n").encode())
                rows = {one["run"]: one for one in kept}
    print(write_results(list(rows.values()), folder))


def _run_chain(chain: list[Cell], runs: Path) -> list[Path]:
    for cell in chain:
        run = runs / cell.name
        start = ("--start", str(runs / cell.start)) if cell.start else ()
        _python("experiments.long_context.train", *cell.arguments, *start, "--out", str(run))
        if not _evaluated(run, cell.longest):
            _python("experiments.long_context.evaluate", str(run), "--longest", str(cell.longest))
    return [runs / cell.name for cell in chain]


def _evaluated(run: Path, longest: int) -> bool:
    """Whether the present weights have been tested at all lengths."""
    path = run / evaluate.FILE
    if not path.exists() or path.stat().st_mtime < (run / FILE).stat().st_mtime:
        return False
    return any(result["segments"] == longest for result in json.loads(path.read_text())["results"])


def _python(*arguments: str) -> None:
    print(f"$ python -m {' '.join(arguments)}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    tyro.cli(main)
