"""The costs of training on so many steps of data, by arithmetic from measured rates and stated assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.scale.sizes import Size
from experiments.scale.work import measure
from rmt_rl.analysis.flops import counted_segment_flops
from rmt_rl.analysis.sizes import SPEC, agent_sizes
from rmt_rl.registry import agent_class

STEPS = 10**9
BACKWARD = 3  # FLOPs of forward and backward together over those of forward (Hoffmann et al. 2022, appendix F)
GPU, GPU_PEAK = "NVIDIA A100", 312e12  # dense bf16 FLOP/s of its data sheet
UTILISATION = 0.3
NUMBER = 4  # bytes of float32
ADAM = 4  # numbers a weight: the weight, its gradient and both moments
PROCESSES = 8  # of the network and FSDP columns
HOUR = 3600
UPDATES = 2  # timed

Costs = dict[str, float]


def size_costs(size: Size) -> dict[str, Any]:
    """Measure an agent: parameters, FLOPs of a step, real steps of a batch, real steps a CPU second of training."""
    agent = agent_class(size.agent)
    made: Any = agent(agent.Config(**size.options), SPEC)
    flops = counted_segment_flops(made.eval().core, made.capacity)
    config = size.config(size.measured)
    measured = measure(config.model_dump(mode="json", exclude_none=True), UPDATES)
    return {
        "source": size.source,
        "parameters": agent_sizes(made).parameters,
        "forward_flops": flops / made.config.segment_length,
        "batch_steps": measured["steps"] / UPDATES * size.batch_size / size.measured,
        "steps_per_cpu_second": measured["steps"] / measured["cpu_seconds"],
    }


def costs_of(measured: Mapping[str, Any]) -> Costs:
    """Return the costs of training on `STEPS` steps, each read once."""
    flops = BACKWARD * measured["forward_flops"] * STEPS
    gradient = NUMBER * measured["parameters"]
    ring = 2 * (PROCESSES - 1) / PROCESSES  # of the gradient's bytes, that each process sends in a ring all-reduce
    updates = STEPS / measured["batch_steps"]
    gpu_seconds = flops / (GPU_PEAK * UTILISATION)
    return {
        "flops": flops,
        "core_hours": STEPS / measured["steps_per_cpu_second"] / HOUR,
        "gpu_hours": gpu_seconds / HOUR,
        "updates": updates,
        "gradient": gradient,
        "network": ring * gradient * updates,
        "sent_per_update": ring * gradient,
        "gpu_update_seconds": gpu_seconds / updates,
        "adam": ADAM * gradient,
        "adam_sharded": ADAM * gradient / PROCESSES,
    }
