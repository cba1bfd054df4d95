"""Makes the table and the pictures of this folder again: python -m experiments.long_context."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from experiments.long_context import evaluate
from experiments.long_context.options import read_run
from experiments.long_context.report import row, write_results
from experiments.long_context.tasks import TaskName
from rmt_rl.errors import UsageError, check_named, explained
from rmt_rl.files import write_atomically
from rmt_rl.runs.checkpoint import path_of

FOLDER = Path(__file__).parent
LAYERS: dict[TaskName, str] = {"memorise": "2", "detect": "2", "reason": "3"}
SHORT: dict[TaskName, tuple[str, ...]] = {  # with segments of 32
    "memorise": ("--tokens", "12000000"),
    "detect": ("--tokens", "12000000"),
    "reason": ("--tokens", "40000000", "--segments", "3"),
}
LONG = ("--segment", "499", "--depths", "2", "3", "--learning-rate", "5e-4")
ONE_FACT = (*LONG, "--lanes", "24", "--segments", "2", "--tokens", "15000000")
LATER = ("--lanes", "18", "--segments", "1", "--threshold", "0.8")
LONGER_LIVES = ("--tokens", "30000000", "--segments", "2", "--reset", "0.0003", "0.3")
BEST: dict[TaskName, str] = {"memorise": "valve", "detect": "valve", "reason": "hard-gate"}  # to compare feeds by
MEMORIES = ("valve", "gate", "hard-gate", "tokens", "mac")
Continuation = tuple[str, str, tuple[str, ...]]
CONTINUATIONS: dict[str, list[Continuation]] = {  # end of the name, end of the run to begin with, what differs
    **{f"memorise-{memory}": [("-499", "-32", ONE_FACT)] for memory in ("valve", "tokens", "mac")},
    **{f"detect-{memory}": [("-499", "-32", ONE_FACT)] for memory in ("valve", "hard-gate", "tokens", "mac")},
    "reason-gate": [
        ("-32-on", "-32", LONGER_LIVES),
        ("-499", "-32", (*LONG, "--lanes", "18", "--segments", "2", "--tokens", "20000000")),
        ("-499-on", "-499", (*LONG, *LATER, "--tokens", "20000000")),
    ],
    "reason-hard-gate": [
        ("-32-on", "-32", LONGER_LIVES),
        ("-499", "-32-on", (*LONG, "--lanes", "18", "--segments", "2", "--tokens", "20000000")),
        ("-128", "-32-on", (*LONG, "--segment", "128", "--lanes", "48", "--segments", "2", "--tokens", "20000000")),
        ("-128-499", "-128", (*LONG, "--lanes", "18", "--segments", "2", "--tokens", "20000000")),
        ("-499-on", "-128-499", (*LONG, *LATER, "--tokens", "20000000", "--reset", "0.03", "0.5")),  # more facts
    ],
}
REPEATED = ("memorise-valve-32", "detect-valve-32", "reason-hard-gate-32", "reason-hard-gate-32-on")
MORE_SEEDS = (1, 2)  # of these runs; of all others there is seed 0 alone
WHOLE = 128  # segments that full attention is tested at, at most


@dataclass(frozen=True)
class Cell:
    """A run: its name, the arguments of its training but for `--out`, the longest test, and the run to begin with."""

    name: str
    arguments: tuple[str, ...]
    longest: int = 4096
    start: str | None = None


Chain = list[Cell]
"""Runs in order; a run may begin with the weights of an earlier one."""


def plan() -> list[Chain]:
    """Return all runs, in the order of the table."""
    chains: list[Chain] = []
    for task in SHORT:
        for memory in MEMORIES:
            chains += _chains(task, memory)
        chains += [[cell] for cell in _comparisons(task)]
    return chains


def _chains(task: TaskName, memory: str) -> list[Chain]:
    """Return a memory's runs on a task, then their repetitions with other seeds."""
    name, arguments = f"{task}-{memory}", (*_common(task), memory)
    chain = [Cell(f"{name}-32", (*arguments, *SHORT[task]))]
    for end, start, changed in CONTINUATIONS.get(name, []):
        chain.append(Cell(name + end, (*arguments, *changed), start=name + start))
    repeated = [cell for cell in chain if cell.name in REPEATED]
    if not repeated:
        return [chain]
    return [chain] + [[_repetition(cell, seed) for cell in repeated] for seed in MORE_SEEDS]


def _comparisons(task: TaskName) -> list[Cell]:
    """Return the runs of the other feeds, and that of full attention."""
    best, budget = BEST[task], SHORT[task]
    cells = [
        Cell(f"{task}-{best}-32-{feed}", (*_common(task), best, "--feed", feed, *budget))
        for feed in ("curriculum", "full")
    ]
    whole = (*_common(task), "none", "--feed", "curriculum", *budget)
    return [*cells, Cell(f"{task}-none-32", whole, longest=WHOLE)]


def _common(task: TaskName) -> tuple[str, ...]:
    return task, "--layers", LAYERS[task], "--memory"


def _repetition(cell: Cell, seed: int) -> Cell:
    """Return the same run with another seed, beginning with the run of that seed."""
    end = f"-seed-{seed}"
    start = cell.start and cell.start + end
    return replace(cell, name=cell.name + end, arguments=(*cell.arguments, "--seed", str(seed)), start=start)


def main(
    only: tuple[str, ...] = (),
    jobs: int = 2,
    runs: Path = Path("runs/long_context"),
    draw: bool = False,
    folder: Path = FOLDER,
) -> None:
    """Train, evaluate, tabulate, plot; what is finished isn't done again.

    Args:
        only: just these runs, e.g. "detect-valve-499", and those whose weights they begin with; the rows of other runs
            in `results.json` are kept.
        jobs: processes at once, one thread each.
        runs: where the runs go.
        draw: make the table and the pictures from `results.json` and nothing else.
        folder: where `results.json`, table and pictures go.
    """
    path = folder / "results.json"
    rows = {one["run"]: one for one in json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}
    chains = _chosen(only)
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: give 1 or more")
    if draw and not rows:
        raise UsageError(f"draw: {path} has no results yet; leave it out to make them")
    failed: list[str] = []
    if not draw:
        order = _order()
        with ThreadPoolExecutor(jobs) as pool:
            for chain in as_completed([pool.submit(_run_chain, chain, runs) for chain in chains]):
                finished, unfinished = chain.result()
                failed += unfinished
                rows |= {run.name: row(run) for run in finished}
                names = sorted(rows, key=lambda name: order.get(name, len(order)))
                rows = {name: rows[name] for name in names}
                write_atomically(path, (json.dumps(list(rows.values()), indent=1) + "\n").encode())
    print(write_results(list(rows.values()), folder))
    if failed:
        raise UsageError(f"these runs failed, or begin with one that did; why is said above: {', '.join(failed)}")


def _order() -> dict[str, int]:
    """Return each run's place in the table."""
    cells = [cell for chain in plan() for cell in chain]
    return {cell.name: place for place, cell in enumerate(cells)}


def _chosen(only: Sequence[str]) -> list[Chain]:
    """Return the chains of the plan, as far as these runs need them."""
    chains = plan()
    check_named(only, [cell.name for chain in chains for cell in chain])
    if not only:
        return chains
    starts = {cell.name: cell.start for chain in chains for cell in chain}
    needed = set()
    for name in only:
        last: str | None = name
        while last is not None:
            needed.add(last)
            last = starts[last]
    cut = [[cell for cell in chain if cell.name in needed] for chain in chains]
    return [chain for chain in cut if chain]


def _run_chain(chain: Chain, runs: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of the runs that are finished now, and the names of those that aren't."""
    finished: list[Path] = []
    failed: list[str] = []
    for cell in chain:
        if cell.start not in failed and _run(cell, runs):
            finished.append(runs / cell.name)
        else:
            failed.append(cell.name)
    return finished, failed


def _run(cell: Cell, runs: Path) -> bool:
    """Train and test, as far as that isn't done; return whether it went well."""
    run = runs / cell.name
    start = ("--start", str(runs / cell.start)) if cell.start else ()
    try:
        _python("experiments.long_context.train", *cell.arguments, *start, "--out", str(run))
        if not _evaluated(run, cell):
            _python("experiments.long_context.evaluate", str(run), "--longest", str(cell.longest))
    except subprocess.CalledProcessError:
        return False
    return True


def _evaluated(run: Path, cell: Cell) -> bool:
    """Return whether the present weights have been tested at all lengths, on the sequences that the table is of."""
    path = run / evaluate.FILE
    if not path.exists() or path.stat().st_mtime < path_of(run).stat().st_mtime:
        return False
    record, options = json.loads(path.read_text(encoding="utf-8")), read_run(run).options
    passes = evaluate.passes(options.task, options.memory, cell.longest, evaluate.SEQUENCES, evaluate.SEQUENCES_LONG)
    tested = {result["segments"]: result["sequences"] for result in record["results"]}
    expected = {length: sequences for sequences, lengths in passes for length in lengths}
    return bool(record["seed"] == evaluate.SEED and tested == expected)


def _python(*arguments: str) -> None:
    print(f"$ python -m {' '.join(arguments)}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
