"""Speed and memory of our RATE beside the official code's, in one command: `python -m experiments.speed.rate`.

Writes `rate.json` (everything measured) and `rate.md` (the tables). Run it on a machine that does nothing else; it
takes some minutes. `--quick` runs every measure for a moment and says nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiments.speed.acting import acting, late
from experiments.speed.floor import floor
from experiments.speed.machine import machine
from experiments.speed.measures import QUICK, Effort, Result, in_process
from experiments.speed.profiles import profile_acting, profile_training
from experiments.speed.report import rate_report
from experiments.speed.sizes import SIZES
from experiments.speed.training import collected, training
from rmt_rl.files import write_atomically

UNTOLD = ("shares", "imported_mb", "dataset")  # parts of a result that are too long to print at once


class Case(NamedTuple):
    """One measure at one size, by the name that the results have."""

    name: str
    size: str
    measure: Callable[..., Result]
    arguments: tuple[Any, ...] = ()


def cases(quick: bool) -> Iterator[Case]:
    """Yield all that is measured, in order."""
    for name, size in SIZES.items():
        yield Case("collect", name, collected)
        yield Case("training", name, training, ("full",))
        yield Case("training, memory replay", name, training, ("replay",))
        yield Case("acting, 1 lane", name, acting, (1, False))
        yield Case("acting, 100 lanes in lock-step", name, acting, (100, False))
        yield Case("acting, 100 lanes at mixed places", name, acting, (100, True))
        if size.in_depth:
            yield Case("late", name, late, (100, 300 if quick else size.late_step))
            yield Case("floor", name, floor)
            yield Case("profile, training", name, profile_training)
            yield Case("profile, acting, 1 lane", name, profile_acting, (1,))
            yield Case("profile, acting, 100 lanes", name, profile_acting, (100,))
        if quick:
            break


def measure_all(quick: bool) -> dict[str, dict[str, Result]]:
    """Return results by size and name; each case in a process of its own, for its memory, except when quick."""
    results: dict[str, dict[str, Result]] = {}
    effort = QUICK if quick else Effort()
    for case in cases(quick):
        arguments = (case.measure, SIZES[case.size], effort, *case.arguments)
        if quick:
            result = in_process(*arguments)
        else:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                result = pool.submit(in_process, *arguments).result()
        results.setdefault(case.size, {})[case.name] = result
        print(f"{case.size}: {case.name}: {_brief(result)}", flush=True)
    return results


def _brief(result: Result) -> str:
    """Return a line for those who wait."""
    brief = {key: value for key, value in result.items() if key not in UNTOLD}
    brief["peak_mb"] = round(result["peak_mb"])
    return json.dumps(brief)


def main() -> None:
    """Measure, print the tables, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds: see that every measure runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of rate.json and rate.md")
    options = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MINARI_DATASETS_PATH": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        tempfile.tempdir = folder
        results = measure_all(options.quick)
    text = rate_report(where, results)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "results": results}
    write_atomically(options.out / "rate.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "rate.md", text.encode())


if __name__ == "__main__":
    main()
