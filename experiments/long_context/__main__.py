"""Remakes the table and the pictures of this folder: python -m experiments.long_context."""

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
from experiments.long_context.options import FILE, read_run
from experiments.long_context.report import row, write_results
from experiments.long_context.tasks import TaskName
from rmt_rl.errors import UsageError, explained
from rmt_rl.files import write_atomically
from rmt_rl.training.sweep import check_named

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
Going = tuple[str, str, tuple[str, ...]]
WEIGHTS_GO_ON: dict[str, list[Going]] = {  # ends of names, whose weights the run begins with, what differs
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
            repeated = [cell for cell in chain if cell.name in REPEATED]
            chains += [[_again(cell, seed) for cell in repeated] for seed in MORE_SEEDS if repeated]
        best = BEST[task]
        for feed in ("curriculum", "full"):
            chains.append([Cell(f"{task}-{best}-32-{feed}", (*common, best, "--feed", feed, *budget))])
        whole = (*common, "none", "--feed", "curriculum", *budget)
        chains.append([Cell(f"{task}-none-32", whole, longest=WHOLE)])
    return chains


def _again(cell: Cell, seed: int) -> Cell:
    """The same run with another seed, beginning with the run of that seed."""
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
        only: just these runs, e.g. "detect-valve-499", and those whose weights they begin with; what `results.json`
            has of others is kept.
        jobs: processes at once, one thread each.
        runs: where the runs go.
        draw: make the table and the pictures of `results.json` and nothing else.
        folder: where `results.json`, table and pictures go.
    """
    path = folder / "results.json"
    rows = {one["run"]: one for one in json.loads(path.read_text())} if path.exists() else {}
    chains = _chosen(only)
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: give 1 or more")
    if draw and not rows:
        raise UsageError(f"draw: {path} has no results yet; leave it out to make them")
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


def _chosen(only: Sequence[str]) -> list[list[Cell]]:
    """The chains of the plan, as far as these runs need them."""
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
    return [some for chain in chains if (some := [cell for cell in chain if cell.name in needed])]


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
        if not _evaluated(run, cell):
            _python("experiments.long_context.evaluate", str(run), "--longest", str(cell.longest))
    except subprocess.CalledProcessError:
        return False
    return True


def _evaluated(run: Path, cell: Cell) -> bool:
    """Whether the present weights have been tested at all lengths, on the sequences that the table is of."""
    path = run / evaluate.FILE
    if not path.exists() or path.stat().st_mtime < (run / FILE).stat().st_mtime:
        return False
    record, options = json.loads(path.read_text()), read_run(run).options
    passes = evaluate.passes(options.task, options.memory, cell.longest, evaluate.SEQUENCES, evaluate.SEQUENCES_LONG)
    tested = {result["segments"]: result["sequences"] for result in record["results"]}
    expected = {length: sequences for sequences, lengths in passes for length in lengths}
    return record["seed"] == evaluate.SEED and tested == expected


def _python(*arguments: str) -> None:
    print(f"$ python -m {' '.join(arguments)}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
