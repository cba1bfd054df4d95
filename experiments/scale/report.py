"""The tables of docs/scale.md, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.scale.costs import (
    BACKWARD,
    GPU,
    GPU_PEAK,
    PROCESSES,
    STEPS,
    UTILISATION,
    Costs,
    costs_of,
)
from experiments.scale.data_costs import EPISODE

GIGABIT = 1e9 / 8  # bytes a second
DISK = 1e12  # bytes of a laptop's disk
MEMORY = 16e9  # bytes of a laptop
WEEK = 7 * 24  # hours
CORES = 8  # of the laptop in the table of limits

Results = Mapping[str, Any]


def report(results: Results) -> str:
    """Return all tables as Markdown."""
    costs = {name: costs_of(measured) for name, measured in results["sizes"].items()}
    parts = [
        f"Measured on {_machine(results)}.",
        _efficiency(results["efficiency"]),
        _sizes(results["sizes"]),
        _costs(costs),
        _processes(costs),
        _memory(results),
        _data(results["data"]),
        _limits(results, costs),
    ]
    return "\n\n".join(parts) + "\n"


def _machine(results: Results) -> str:
    return ", ".join(f"{name} {value}" for name, value in results["machine"].items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _efficiency(measured: Results) -> str:
    head = [
        "size",
        "processes",
        "steps/s",
        "steps a CPU s",
        "efficiency, time",
        "efficiency, CPU",
        "sums an update",
        "MB summed",
    ]
    rows = []
    for name, runs in measured.items():
        one = runs["1"]
        for count, run in runs.items():
            rows.append(
                [
                    name,
                    count,
                    f"{run['speed']:,.0f}",
                    f"{run['cpu_speed']:,.0f}",
                    f"{run['speed'] / one['speed'] / int(count):.2f}",
                    f"{run['cpu_speed'] / one['cpu_speed']:.2f}",
                    f"{run['sums']:.0f}",
                    f"{run['sum_bytes'] / 1e6:.2f}",
                ]
            )
    return _titled("Two processes on this machine, one thread each, medians of runs in turns", _table(head, rows))


def _titled(title: str, table: str) -> str:
    return f"**{title}**\n\n{table}"


def _sizes(sizes: Results) -> str:
    head = ["size", "parameters", "MFLOP a step, forward", "steps of a batch", "steps a CPU s, training", "sizes from"]
    rows = []
    for name, each in sizes.items():
        rows.append(
            [
                name,
                f"{each['parameters']:,}",
                f"{each['forward_flops'] / 1e6:.2f}",
                f"{each['batch_steps']:,.0f}",
                f"{each['steps_per_cpu_second']:,.1f}",
                each["source"],
            ]
        )
    return _titled("Sizes, as `rmt-rl flops` counts them, and their speed here", _table(head, rows))


def _costs(costs: Mapping[str, Costs]) -> str:
    gpu = f"GPU hours ({GPU}, {UTILISATION:.0%} of {GPU_PEAK / 1e12:.0f} TFLOP/s)"
    rows = [
        [
            name,
            f"{each['flops']:.1e}",
            f"{each['core_hours']:,.0f}",
            f"{each['gpu_hours']:,.2f}",
            f"{each['updates']:,.0f}",
        ]
        for name, each in costs.items()
    ]
    title = f"Training on {STEPS:.0e} steps, each read once; forward and backward are {BACKWARD} forward passes"
    return _titled(title, _table(["size", "FLOPs", "core hours here", gpu, "updates"], rows))


def _processes(costs: Mapping[str, Costs]) -> str:
    head = [
        "size",
        "gradient",
        f"a process sends in an update ({PROCESSES} processes)",
        f"and for {STEPS:.0e} steps",
        "weights, gradients and Adam",
        f"a process's part under FSDP ({PROCESSES} processes)",
    ]
    rows = []
    for name, each in costs.items():
        numbers = ("gradient", "sent_per_update", "network", "adam", "adam_sharded")
        rows.append([name, *(_bytes(each[number]) for number in numbers)])
    return _titled("Network and memory of several processes, float32, ring all-reduce", _table(head, rows))


def _memory(results: Results) -> str:
    head = ["size", "strategy", "weights, gradients and Adam, a process", "held after 2 updates", "held at most"]
    rows = []
    for name, by_strategy in results["memory"].items():
        whole = costs_of(results["sizes"][name])["adam"]
        for strategy, held in by_strategy.items():
            share = whole / 2 if strategy == "fsdp" else whole
            numbers = (share, held["held_mb"] * 1e6, held["peak_mb"] * 1e6)
            rows.append([name, strategy, *map(_bytes, numbers)])
    title = "Memory of one of two processes, one sequence each; the rest are activations and buffers"
    return _titled(title, _table(head, rows))


def _data(data: Results) -> str:
    episodes = STEPS / EPISODE
    rows = [
        ["vectors of 4 numbers, on disk", _bytes(data["vector_step"]), _bytes(data["vector_step"] * STEPS)],
        ["images of 84 x 84 x 3, on disk", _bytes(data["image_step"]), _bytes(data["image_step"] * STEPS)],
        ["index, file (an episode)", _bytes(data["index_episode"]), _bytes(data["index_episode"] * episodes)],
        ["index, memory (an episode)", _bytes(data["memory_episode"]), _bytes(data["memory_episode"] * episodes)],
    ]
    title = f"Data, measured on noise in episodes of {EPISODE} steps; {STEPS:.0e} steps are {episodes:,.0f} episodes"
    return _titled(title, _table(["data", "a step, or an episode", f"{STEPS:.0e} steps"], rows))


def _limits(results: Results, costs: Mapping[str, Costs]) -> str:
    """Return what breaks first, by the number of steps at which it does; then what doesn't depend on steps."""
    data = results["data"]
    limits = [
        (DISK / data["image_step"], f"images fill a disk of {_bytes(DISK)}"),
        (DISK / data["vector_step"], f"vectors fill a disk of {_bytes(DISK)}"),
        (MEMORY / data["memory_episode"] * EPISODE, f"the index of short episodes fills a memory of {_bytes(MEMORY)}"),
    ]
    for name, each in costs.items():
        week = WEEK * CORES / each["core_hours"] * STEPS
        limits.append((week, f"{name} takes a week on {CORES} cores like this one, if they scaled perfectly"))
    rows = [[f"{steps:.1e}", what] for steps, what in sorted(limits)]
    return _titled("What breaks first", _table(["steps", "limit"], rows)) + "\n\n" + _network(costs)


def _network(costs: Mapping[str, Costs]) -> str:
    rows = []
    for name, each in costs.items():
        rate = each["sent_per_update"] / each["gpu_update_seconds"]
        rows.append(
            [
                name,
                f"{each['gpu_update_seconds'] * 1e3:,.1f} ms",
                f"{each['sent_per_update'] / GIGABIT * 1e3:,.1f} ms",
                f"{rate * 8 / 1e9:,.1f} Gbit/s",
            ]
        )
    head = [
        "size",
        "an update's arithmetic on that GPU",
        "its gradient over 1 Gbit/s",
        "network at which both take as long",
    ]
    return _titled(f"Where the network of {PROCESSES} processes breaks, one batch a process", _table(head, rows))


def _bytes(count: float) -> str:
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:,.0f} B"
