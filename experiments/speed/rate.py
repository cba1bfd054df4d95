"""Speed and memory of our agents beside the official code's: `python -m experiments.speed.rate --official CHECKOUT`.

CHECKOUT is the folder of a clone of https://github.com/CognitiveAISystems/RATE. Both sides run in turns in this
process, on one thread. Without a checkout ours are measured alone. Writes `rate.json` (everything measured) and
`rate.md` (the tables). `--quick` runs every measure for a moment and says nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.speed.acting import acting, late
from experiments.speed.floor import floor
from experiments.speed.machine import commit, machine
from experiments.speed.official import check
from experiments.speed.profiles import profile_acting, profile_training
from experiments.speed.report import rate_report
from experiments.speed.sizes import OFFICIAL_TRAINING, QUICK_SIZES, SIZES, Size
from experiments.speed.training import GRADIENTS, memory_of_official, memory_of_ours, training
from experiments.speed.turns import Result
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically


def measured(size: Size, checkout: Path | None, quick: bool) -> Result:
    """Return everything measured at one size."""
    result = training(size, checkout)
    _print(result["speeds"])
    acted = acting(size, checkout)
    _print(acted["speeds"])
    result["speeds"] |= acted["speeds"]
    memories = {name: partial(memory_of_ours, size, gradient) for name, gradient in GRADIENTS.items()}
    if checkout:
        memories[OFFICIAL_TRAINING] = partial(memory_of_official, size, checkout)
    result["memory"] = {name: _in_own_process(measure, quick)["mb"] for name, measure in memories.items()}
    _print(result["memory"])
    if size.late_step:
        result |= _in_depth(size)
    return result


def _in_depth(size: Size) -> Result:
    return {
        "late": late(size),
        "floor": floor(size),
        "profile, training": profile_training(size),
        "profile, acting, 1 environment": profile_acting(size, 1),
        "profile, acting, 100 environments": profile_acting(size, 100),
    }


def _in_own_process(measure: Callable[[], Result], quick: bool) -> Result:
    """Measure in a new process, whose memory is its own; when quick, in this one."""
    if quick:
        return measure()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(measure).result()


def _print(found: Mapping[str, Any]) -> None:
    """Print a line for those who wait."""
    print(json.dumps(found), flush=True)


@contextmanager
def own_storage() -> Iterator[None]:
    """Keep data sets and temporary files, also those of processes begun meanwhile, in a folder that goes away."""
    environment, temporary = dict(os.environ), tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MINARI_DATASETS_PATH": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        tempfile.tempdir = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= environment
            tempfile.tempdir = temporary


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="CHECKOUT", help="clone of RATE's official code")
    parser.add_argument("--quick", action="store_true", help="seconds: see that every measure runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of rate.json and rate.md")
    options = parser.parse_args(arguments)
    checkout = options.official and options.official.resolve()
    torch.set_num_threads(1)
    where = machine() | ({"official code": commit(checkout)} if checkout else {})
    sizes = QUICK_SIZES if options.quick else SIZES
    try:
        if checkout:
            check(checkout, sizes.values())
        with own_storage():
            results = {name: measured(size, checkout, options.quick) for name, size in sizes.items()}
    except UsageError as error:
        parser.error(str(error))
    text = rate_report(where, results)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "results": results}
    write_atomically(options.out / "rate.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "rate.md", text.encode())


if __name__ == "__main__":
    main()
