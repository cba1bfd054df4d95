"""Growth of costs with segments, batch, environments and runs: `python -m experiments.speed.growth`.

Writes `growth.json` (everything measured) and `growth.md` (the table). Each size is measured in a process of its own,
on one thread. `--quick` measures the smallest sizes alone.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from experiments.speed.growth_measures import Cost, batch, lanes, measured, runs, segments
from experiments.speed.machine import machine
from experiments.speed.rate import own_storage
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.files import write_atomically

HEAD = ("what", "number", "CPU seconds", "ms each", "growth", "MB", "growth of memory")


@dataclass(frozen=True)
class Growth:
    """A measure at several sizes.

    Attributes:
        name: of what is counted.
        measure: returns the cost of a number of them.
        counts: the numbers.
    """

    name: str
    measure: Callable[[int], Cost]
    counts: tuple[int, ...]


GROWTHS = (
    Growth("segments, full gradient", partial(segments, gradient="full"), (1, 4, 16, 64)),
    Growth("segments, replay", partial(segments, gradient="replay"), (1, 4, 16, 64)),
    Growth("episodes of a batch", batch, (16, 64, 256, 1024)),
    Growth("environments", lanes, (1, 16, 64, 256, 1024, 4096)),
    Growth("runs plotted", runs, (25, 100, 400)),
)
QUICK = 1  # sizes of each


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of growth.json and growth.md")
    options = parser.parse_args(arguments)
    where = machine()
    found = {}
    with own_storage():
        for growth in GROWTHS:
            counts = growth.counts[:QUICK] if options.quick else growth.counts
            found[growth.name] = _costs(growth, counts)
    text = growth_report(where, found)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "costs": found}
    write_atomically(options.out / "growth.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "growth.md", text.encode())


def _costs(growth: Growth, counts: Sequence[int]) -> dict[int, dict[str, float]]:
    costs = {}
    for count in counts:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            cost = pool.submit(measured, growth.measure, count).result()
        costs[count] = asdict(cost)
        print(growth.name, count, costs[count], flush=True)
    return costs


def growth_report(where: dict[str, str], found: dict[str, dict[int, dict[str, float]]]) -> str:
    """Return the table as Markdown."""
    rows: list[tuple[str, ...]] = []
    for name, costs in found.items():
        rows += _rows(name, costs)
    machine_line = ", ".join(f"{key} {value}" for key, value in where.items())
    return (
        "<!-- Written by `python -m experiments.speed.growth`. -->\n\n"
        f"Measured on {machine_line}.\n\n{markdown_table(HEAD, rows)}\n"
    )


def _rows(name: str, costs: dict[int, dict[str, float]]) -> Iterator[tuple[str, ...]]:
    before: tuple[int, dict[str, float]] | None = None
    for count, cost in costs.items():
        seconds, mb = cost["seconds"], cost["mb"]
        each = 1e3 * seconds / count
        orders = [""] * 2
        if before:
            factor = math.log(count / before[0])
            orders = [f"{math.log(cost[key] / before[1][key]) / factor:.2f}" for key in ("seconds", "mb")]
        yield name, f"{count:,}", f"{seconds:.3f}", f"{each:.2f}", orders[0], f"{mb:.0f}", orders[1]
        before = count, cost


if __name__ == "__main__":
    main()
