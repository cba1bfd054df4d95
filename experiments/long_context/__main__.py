"""Remakes the table and the pictures of this folder: python -m experiments.long_context."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.long_context import evaluate
from experiments.long_context.options import FILE
from experiments.long_context.report import row, write_results
from experiments.long_context.tasks import TaskName
from rmt_rl.errors import UsageError, explained
from rmt_rl.files import write_atomically

FOLDER = Path(__file__).parent
LAYERS: dict[TaskName, str] = {"memorise": "2", "detect": "2", "reason": "3"}
SHORT: dict[TaskName, tuple[str, ...]] = {  # with segments of 32
    "memorise": ("--tokens", "12000000"),
    "detect": ("--tokens", "12000000"),
    "reason": ("--tokens", "40000000", "--segments", "3"),
}
LONG = ("--segment", "499", "--depths", "2", "3", "--learning-rate", "5e-4")
ONE_FACT = (*LONG, "--lanes", "24", "--segments", "2", "--tokens", "15000000")
LONGER_LIVES = ("--tokens", "30000000", "--segments", "2", "--reset", "0.0003", "0.3")
MEMORIES = ("valve", "gate", "hard-gate", "tokens", "mac")
Going = tuple[str, str, tuple[str, ...]]
WEIGHTS_GO_ON: dict[str, list[Going]] = {  # ends of names, whose weights the run begins with, what differs
    "memorise-valve": [("-499", "-32", ONE_FACT)],
    "detect-valve": [("-499", "-32", ONE_FACT)],
    "reason-gate": [
        ("-32-on", "-32", LONGER_LIVES),
        ("-499", "-32", (*LONG, "--lanes", "18", "--segments", "2", "--tokens", "20000000")),
        ("-499-on", "-499", (*LONG, "--lanes", "18", "--segments", "1", "--threshold", "0.8", "--tokens", "20000000")),
    ],
    "reason-hard-gate": [
        ("-32-on", "-32", LONGER_LIVES),
        ("-499", "-32-on", (*LONG, "--lanes", "18", "--segments", "2", "--tokens", "20000000")),
    ],
}
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
    for task, budget in SHORT.items():
        common = (task, "--layers", LAYERS[task], "--memory")
        for memory in MEMORIES:
            name, arguments = f"{task}-{memory}", (*common, memory)
            chain = [Cell(f"{name}-32", (*arguments, *budget))]
            for end, start, changed in WEIGHTS_GO_ON.get(name, []):
                chain.append(Cell(name + end, (*arguments, *changed), start=name + start))
            chains.append(chain)
        for feed in ("curriculum", "full"):
            chains.append([Cell(f"{task}-valve-32-{feed}", (*common, "valve", "--feed", feed, *budget))])
        whole = (*common, "none", "--feed", "curriculum", *budget)
        chains.append([Cell(f"{task}-none-32", whole, longest=WHOLE)])
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
    if not (rows if draw else chains):
        raise UsageError(f"only={only!r}, draw={draw}: no run of the plan or no result is there for it")
    failed: list[str] = []
    if not draw:
        order = {cell.name: place for place, cell in enumerate(cell for chain in plan() for cell in chain)}
        with ThreadPoolExecutor(jobs) as pool:
            for chain in as_completed([pool.submit(_run_chain, chain, runs) for chain in chains]):
                finished, without = chain.result()
                failed += without
                rows |= {run.name: row(run) for run in finished}
                kept = sorted(rows.values(), key=lambda one: order.get(one["run"], len(order)))
                write_atomically(path, (json.dumps(kept, indent=1) + "\n").encode())
                rows = {one["run"]: one for one in kept}
    print(write_results(list(rows.values()), folder))
    if failed:
        raise UsageError(f"these runs failed, or begin with one that did; why is said above: {', '.join(failed)}")


def _run_chain(chain: list[Cell], runs: Path) -> tuple[list[Path], list[str]]:
    """The runs that are finished now, and the names of those that aren't."""
    finished: list[Path] = []
    failed: list[str] = []
    for cell in chain:
        if cell.start not in failed and _run(cell, runs):
            finished.append(runs / cell.name)
        else:
            failed.append(cell.name)
    return finished, failed


def _run(cell: Cell, runs: Path) -> bool:
    """Train and test, as far as that isn't done; whether it went well."""
    run = runs / cell.name
    start = ("--start", str(runs / cell.start)) if cell.start else ()
    try:
        _python("experiments.long_context.train", *cell.arguments, *start, "--out", str(run))
        if not _evaluated(run, cell.longest):
            _python("experiments.long_context.evaluate", str(run), "--longest", str(cell.longest))
    except subprocess.CalledProcessError:
        return False
    return True


def _evaluated(run: Path, longest: int) -> bool:
    """Whether the present weights have been tested at all lengths, on the sequences that the table is of."""
    path = run / evaluate.FILE
    if not path.exists() or path.stat().st_mtime < (run / FILE).stat().st_mtime:
        return False
    record = json.loads(path.read_text())
    lengths = {result["segments"] for result in record["results"]}
    return record["seed"] == evaluate.SEED and longest in lengths


def _python(*arguments: str) -> None:
    print(f"$ python -m {' '.join(arguments)}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
