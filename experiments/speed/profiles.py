"""Shares of time by kind of operator, in training and in acting."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from experiments.speed.acting import play, walking
from experiments.speed.sizes import Size
from experiments.speed.training import POOL, Training
from experiments.speed.turns import Result

KINDS = {  # the first that matches
    "attention kernel": r"aten::_scaled_dot_product_.*",
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm)",
    "GELU": r"aten::gelu.*",
    "layer norm": r"aten::native_layer_norm.*",
    "moving data": r"aten::(copy_|cat|stack|index.*|_index_put.*|gather|scatter.*|fill_|zero_|embedding.*|where)",
    "optimiser": r"Optimizer.*|aten::_f(used|oreach)_.*",
    "views, allocation, dispatch": r"aten::(empty.*|new_.*|view.*|_?reshape.*|_?unsafe_view|transpose|t|as_strided.*"
    r"|slice.*|select.*|expand|.*squeeze|unflatten|flatten|split.*|chunk|unbind|detach|permute|resolve_.*|linear|matmul"
    r"|layer_norm|scaled_dot_product_attention|to|_to_copy|contiguous|clone|zeros.*|ones.*|dropout|alias|lift_fresh)",
    "other operators": r"aten::.*",
}
REST = "Python, autograd, environment"


def profile_training(size: Size) -> Result:
    """Profile updates."""
    work = Training(size)
    work.run(1)
    updates = POOL // 4

    def run() -> int:
        work.run(updates)
        return updates

    return profiled(run)


def profile_acting(size: Size, environments: int) -> Result:
    """Profile steps of all environments, in lock-step, over one segment and its end."""
    steps = walking(size, environments, size.longest_corridor)
    count = size.segment_length
    play(steps, count)

    def run() -> int:
        play(steps, count)
        return count

    return profiled(run)


def profiled(run: Callable[[], int]) -> Result:
    """Run under PyTorch's profiler; return each kind of operator's share of the time, and operators called a unit.

    Time outside of operators belongs to Python, autograd's bookkeeping and the environment. The profiler's own cost
    falls on every call, so that many small operators look dearer than they are.

    Args:
        run: does the work, and returns how many units (updates or steps) it was.
    """
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        began = time.perf_counter()
        units = run()
        total = time.perf_counter() - began
    seconds = Counter[str]()
    calls = 0
    for event in recorded.key_averages():
        kind = _kind(event.key)
        if kind is not None:
            seconds[kind] += event.self_cpu_time_total / 1e6
            calls += event.count
    shares = {kind: each / total for kind, each in seconds.most_common()}
    shares[REST] = 1 - sum(shares.values())
    return {
        "shares": shares,
        "calls": calls / units,
        "milliseconds": 1e3 * total / units,
    }


def _kind(operator: str) -> str | None:
    for kind, pattern in KINDS.items():
        if re.fullmatch(pattern, operator):
            return kind
    return None
