"""What is measured, each in a process of its own: speeds, memory, the floor, and where the time goes.

A result is a dictionary for JSON. Speeds are lists, one number a repeat. Times are CPU time of one
thread; only the profiles' shares are of wall time.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from experiments.speed.sizes import SEGMENTS, Size
from rmt_rl.acting.collect import collect
from rmt_rl.acting.rollout import Step, make_vec_env, rollout
from rmt_rl.agent import AgentSpec
from rmt_rl.data.feed import SegmentFeed, make_feed
from rmt_rl.registry import agent_class, load_task
from rmt_rl.training.loop import Loop
from rmt_rl.training.segments import SegmentLearner
from rmt_rl.wrappers import VectorReturnToGo

Result = dict[str, Any]
RIGHT = 0  # the action


class Effort(NamedTuple):
    """How much is measured."""

    episodes: int = 1000  # of the data set
    updates: int = 8  # a repeat: all batches of one pool of the feed
    repeats: int = 5  # or the size's own limit
    vector_steps: int = 150  # of acting, a repeat, at least


QUICK = Effort(episodes=64, updates=1, repeats=1, vector_steps=40)


def in_process(measure: Callable[..., Result], *arguments: Any) -> Result:
    """Run a measure on one thread; adds the process's memory in MB, after imports and at its peak."""
    torch.set_num_threads(1)
    imported = peak_mb()
    return measure(*arguments) | {"imported_mb": imported, "peak_mb": peak_mb()}


def repeats_of(size: Size, effort: Effort) -> int:
    """How often a speed is measured."""
    return min(effort.repeats, size.repeats)


def peak_mb() -> float:
    """The most resident memory that this process has had (Linux: unlike ru_maxrss, not its parent's)."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000 * 1.024


# Training


def collected(size: Size, effort: Effort) -> Result:
    """Collect the data set, so that its making is in no other measure."""
    config = size.config()
    return {"dataset": collect(config.env, config.env_options.model_dump(), effort.episodes, seed=0)}


class Training:
    """A learner on data that are all in memory, and the real steps of its batches."""

    def __init__(self, size: Size, effort: Effort, gradient: str = "full") -> None:
        collected(size, effort)
        self.config = size.config(gradient=gradient)
        self.learner = SegmentLearner(self.config)
        self.store = self.learner.store
        for index in range(len(self.store)):
            self.store.episode(index)
        self.learner.start()
        self.folder = Path(tempfile.mkdtemp())
        self.feed: SegmentFeed = make_feed(self.store, self.config.data, size.segment_length, self.config.seed)
        self.real_share = float(self.store.lengths.mean()) / (SEGMENTS * size.segment_length)

    def run(self, updates: int) -> list[float]:
        """Make the updates 0, 1, ...: the CPU times (s) at the start and after each."""
        marks: list[float] = []

        def should_stop() -> bool:
            if not marks:
                marks.append(time.process_time())
            return len(marks) > updates

        self.learner.made = 0
        loop = Loop(self.learner, self.folder, self.config.schedule, {})
        loop.run(lambda update, metrics: marks.append(time.process_time()), should_stop)
        return marks

    def steps(self, updates: range) -> int:
        """Real steps of the batches of these updates."""
        return sum(self.feed.batch(update).steps for update in updates)

    def padding(self, updates: range) -> float:
        """The share of these batches' computed steps that is padding."""
        segments = [segment for update in updates for segment in self.feed.batch(update).segments]
        return 1 - self.steps(updates) / sum(segment.returns_to_go.numel() for segment in segments)


def training(size: Size, effort: Effort, gradient: str) -> Result:
    """Real environment steps a CPU second of the training loop: batch, forward, backward, clipping, AdamW."""
    work = Training(size, effort, gradient)
    work.run(1)
    repeats, updates = repeats_of(size, effort), effort.updates
    marks = work.run(repeats * updates)
    ranges = [range(repeat * updates, (repeat + 1) * updates) for repeat in range(repeats)]
    speeds = [work.steps(each) / (marks[each.stop] - marks[each.start]) for each in ranges]
    return {"steps_per_second": speeds, "real_share": work.real_share, "padding": work.padding(ranges[0])}


# Acting


def walking(size: Size, lanes: int, corridor_length: Any) -> Iterator[Step]:
    """Roll out without end: an untrained agent that walks right, so that episodes last corridor + 2 steps."""
    env = make_vec_env(load_task("tmaze"), {"corridor_length": corridor_length}, lanes)
    config = size.config()
    spec = AgentSpec(env.single_observation_space, env.single_action_space, 1.0, 1.0)
    agent: Any = agent_class(config.agent)(config.agent_options, spec)
    with torch.no_grad():
        agent.to_action.bias[RIGHT] = 1e3
    return rollout(agent, VectorReturnToGo(env, 1.0), 10**9, seed=0)


def acting(size: Size, effort: Effort, lanes: int, mixed: bool) -> Result:
    """Environment steps a CPU second of a rollout through several segments.

    Lanes of one corridor length go in lock-step. With lengths drawn from a range they stand, once the longest episode's
    time has passed, at unlike places of their segments.
    """
    longest = size.longest_corridor
    steps = walking(size, lanes, (1, longest) if mixed else longest)
    episode = longest + 3  # and the reset
    _played(steps, episode)
    vector_steps = -(-effort.vector_steps // episode) * episode
    speeds = []
    for _ in range(repeats_of(size, effort)):
        began = time.process_time()
        counted = _played(steps, vector_steps)
        speeds.append(counted / (time.process_time() - began))
    return {"steps_per_second": speeds}


def _played(steps: Iterator[Step], count: int) -> int:
    """Environment steps made in so many vector steps."""
    return sum(int(step.counted.sum()) for step in islice(steps, count))


def late(size: Size, effort: Effort, early: int, far: int) -> Result:
    """Milliseconds a step behind these two steps of a long episode, averaged over three segments a repeat.

    The two are measured in turns, so that a change of the machine's speed meets both.
    """
    window = 3 * size.segment_length
    milliseconds: dict[int, list[float]] = {far: [], early: []}
    rollouts = {place: walking(size, 1, far + window * effort.repeats) for place in milliseconds}
    for place, steps in rollouts.items():
        _played(steps, place)
    for _ in range(effort.repeats):
        for place in (early, far):
            milliseconds[place].append(_milliseconds(rollouts[place], window))
    return {"milliseconds_per_step": {str(place): milliseconds[place] for place in (early, far)}}


def _milliseconds(steps: Iterator[Step], count: int) -> float:
    began = time.process_time()
    _played(steps, count)
    return 1e3 * (time.process_time() - began) / count


# The floor: operations needed over the machine's matrix rate


def floor(size: Size, effort: Effort) -> Result:
    """FLOPs a real step (2 a multiply-add, causal attention as half a square), and the machine's rates for them."""
    aten = torch.ops.aten
    attention: list[int] = []

    def forward(q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
        attention.append(sdpa_flop_count(q, k, v) // 2)
        return attention[-1]

    def backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
        attention.append(sdpa_backward_flop_count(grad, q, k, v) // 2)
        return attention[-1]

    mapping = {  # missing from PyTorch's own
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    work = Training(replace(size, batch_size=size.batch_size // 8), effort)  # the same a step, and sooner done
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work.run(effort.updates)
    steps = work.steps(range(effort.updates))
    return {
        "flops_per_step": counter.get_total_flops() / steps,
        "attention_flops_per_step": sum(attention) / steps,
        "square_flops_per_second": matrix_rate([(1024, 1024, 1024)]),
        "layer_flops_per_second": matrix_rate(_layer_products(size)),
    }


def _layer_products(size: Size) -> list[tuple[int, int, int]]:
    """The matrix products (rows, inner, columns) of one layer on a full batch, forward and backward."""
    options = size.options
    width, hidden = options["width"], options["hidden"]
    inner = options["heads"] * options.get("head_width", width // options["heads"])
    tokens = size.batch_size * (3 * options["segment_length"] + 2 * options["memory_tokens"])
    maps = [(width, 2 * inner), (width, inner), (inner, width), (width, hidden), (hidden, width)]
    return [
        product for a, b in maps for product in [(tokens, a, b), (tokens, b, a), (b, tokens, a)]
    ]  # output, gradient of the input, gradient of the weights


def matrix_rate(products: list[tuple[int, int, int]], seconds: float = 0.05) -> float:
    """Floating-point operations a CPU second in float32 products of these sizes."""
    flops = time_taken = 0.0
    for rows, inner, columns in products:
        left, right = torch.randn(rows, inner), torch.randn(inner, columns)
        left @ right
        began, count = time.process_time(), 0
        while time.process_time() - began < seconds:
            left @ right
            count += 1
        flops += 2 * rows * inner * columns
        time_taken += (time.process_time() - began) / count
    return flops / time_taken


# Where the time goes

_KINDS = {  # the first that matches
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


def profile_training(size: Size, effort: Effort) -> Result:
    """Where an update's time goes."""
    work = Training(size, effort)
    work.run(1)
    return profiled(lambda: len(work.run(max(1, effort.updates // 4))) - 1)


def profile_acting(size: Size, effort: Effort, lanes: int) -> Result:
    """Where a vector step's time goes, in lock-step, over one segment and its end."""
    steps = walking(size, lanes, size.longest_corridor)
    count = size.segment_length
    _played(steps, count)

    def run() -> int:
        _played(steps, count)
        return count

    return profiled(run)


def profiled(run: Callable[[], int]) -> Result:
    """Run under PyTorch's profiler: each kind of operator's share of the time, and operators called a unit of `run`.

    What operators don't account for is Python, autograd's bookkeeping and the environment. The profiler's own cost
    falls on every call, so that many small operators look dearer than they are.
    """
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        began = time.perf_counter()
        units = run()
        total = time.perf_counter() - began
    times, calls = Counter[str](), 0
    for event in recorded.key_averages():
        kind = next((kind for kind, pattern in _KINDS.items() if re.fullmatch(pattern, event.key)), None)
        if kind is not None:
            times[kind] += event.self_cpu_time_total / 1e6
            calls += event.count
    shares = {kind: seconds / total for kind, seconds in times.most_common()}
    return {
        "shares": shares | {"Python, autograd, environment": 1 - sum(shares.values())},
        "calls": calls / units,
        "milliseconds": 1e3 * total / units,
    }
