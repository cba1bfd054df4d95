"""The memory that a run needs at least, told before data are collected, and before anything is allocated or written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rmt_rl.acting.rollout import OBJECT
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.config import Frozen
from rmt_rl.data.opening import open_dataset
from rmt_rl.data.segment import Batch
from rmt_rl.environments import make_env
from rmt_rl.machine import check_fits
from rmt_rl.nn.model_size import BEYOND, count_weights, without_memory
from rmt_rl.recurrence import Tree, tree_leaves
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.evaluation import check_episodes
from rmt_rl.runs.options import OfflineRun, OnlineRun, RunConfig
from rmt_rl.task import HasSpaces
from rmt_rl.trees import leaves

SEQUENCE = 256  # bytes of indices and Python objects of a batch element, at least
TRAINED = 4  # tensors of a weight's shape: the weight, its gradient, and the two moments of Adam
ROLLOUT_NUMBERS = 6  # float32 of each step in a rollout buffer: action, reward, return, value, advantage, ...
LANES = 100  # environments played at once by an evaluation, at most


def check_offline(config: OfflineRun) -> None:
    """Raise a UsageError if the memory of this machine can't hold a run's batch, its agent or its evaluation."""
    check_episodes("eval_episodes", config.evaluation.eval_episodes)
    data, training = config.data, config.training
    check_fits(f"batch_size={data.batch_size}: a batch", data.batch_size * SEQUENCE, "choose fewer sequences")
    most = training.most_fillers
    fillers = most // 2 * data.batch_size * SEQUENCE
    check_fits(f"ageing={most}: the filler segments of an update", fillers, "choose fewer")
    spec = _spec(config)
    if spec is None:
        return
    _check_segments(config, bytes_of_step(spec))
    _check_weights(config, spec, device_bytes(training.accelerator))
    lanes = max(1, min(config.evaluation.eval_episodes, LANES))  # an inspection acts, too
    acting = lanes * _acting_bytes(config, spec)
    cause = f"{_sizes(config.agent_options)}: acting in {lanes} environments"
    check_fits(cause, acting, "choose a smaller agent")


def check_online(config: OnlineRun) -> None:
    """Raise a UsageError if the memory of this machine can't hold a run's environments, rollout buffer or agent."""
    check_episodes("eval_episodes", config.evaluation.eval_episodes)
    count = config.online.n_envs
    check_fits(f"n_envs={count}", count * OBJECT, "choose fewer environments")
    spec = _spec(config)
    if spec is None:
        return
    steps = getattr(config.agent_options, "n_steps", 1)
    observation = bytes_of_step(spec)
    buffer = count * steps * (observation + 4 * ROLLOUT_NUMBERS)
    cause = f"n_envs={count}, n_steps={steps}: the steps of a round"
    check_fits(cause, buffer, "choose fewer environments or steps")
    _check_weights(config, spec, device_bytes(config.online.device))


def _spec(config: RunConfig) -> AgentSpec | None:
    """Return the spaces of a run; None if they can't be had, which the run itself tells."""
    data = config.data_options
    try:
        if data is not None and data.dataset:
            return _spec_of(cast("HasSpaces", open_dataset(data.dataset[0])))
        with closing(make_env(load_task(config.env), config.env_options)) as env:
            return _spec_of(env)
    except Exception:
        return None


def _spec_of(thing: HasSpaces) -> AgentSpec:
    return AgentSpec(thing.observation_space, thing.action_space)


def bytes_of_step(spec: AgentSpec) -> int:
    """Return the bytes of a step's observation and action, at least: a byte for a pixel, 4 for another number."""
    size = 0
    for space in (spec.observation_space, spec.action_space):
        for _, leaf in leaves(space):
            count = int(np.prod(leaf.shape or ()))
            is_byte = leaf.dtype in (np.uint8, np.bool_)
            size += count if is_byte else 4 * count
    return size


def _check_segments(config: OfflineRun, step: int) -> None:
    """Raise a UsageError if a sequence of all segments doesn't fit, or a batch of sequences of one step."""
    data = config.data
    segment_length = config.agent_options.segment_length
    for name in ("segments", "burn_in"):
        segments = getattr(data, name)
        cause = f"{name}={segments}, segment_length={segment_length}: a single sequence"
        check_fits(cause, segments * segment_length * step, "choose as many as the longest episode has, or fewer")
    batch = data.batch_size * (SEQUENCE + step)
    check_fits(f"batch_size={data.batch_size}: a batch", batch, "choose fewer sequences")


def _check_weights(config: RunConfig, spec: AgentSpec, available: int | None) -> None:
    """Raise a UsageError if an agent's weights can't be trained in the memory there is."""
    count = count_weights(_maker(config, spec), config.agent_options)
    cause = f"{_sizes(config.agent_options)}: training {count.tensors:,} or more tensors of weights by Adam"
    needed = int(_trained_copies(config, available) * count.bytes)
    check_fits(cause, needed, "choose a smaller agent", available)


def _trained_copies(config: RunConfig, available: int | None) -> float:
    """Return how many times its weights training takes up, in the memory of a device or else of a node."""
    if not isinstance(config, OfflineRun) or config.training.strategy != "fsdp":
        return TRAINED
    shares = config.num_nodes if available is None else config.devices * config.num_nodes
    return max(1.0, TRAINED / shares)  # every process makes the agent whole before it keeps its part


def _maker(config: RunConfig, spec: AgentSpec) -> Callable[[Frozen], object]:
    """Return a function that makes the run's agent from its options."""
    cls: Callable[..., object] = agent_class(config.agent)

    def make(options: Frozen) -> object:
        return cls(options, spec)

    return make


def _acting_bytes(config: RunConfig, spec: AgentSpec) -> int:
    """Return the bytes of the state and the open segment of one environment, as far as they are known."""
    make = _maker(config, spec)
    counted = 0
    try:
        with without_memory():
            agent = make(config.agent_options)
            assert isinstance(agent, Agent)
            state = agent.initial_state(1)
            counted += _bytes_of(state)
            cache = agent.core.begin(state, 1, agent.capacity)
            counted += _bytes_of(cache)
    except Exception as error:
        return BEYOND if "overflow" in str(error).lower() else counted
    return counted


def _bytes_of(tree: Tree) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree))


def _sizes(options: Frozen) -> str:
    """Return an agent's whole-number options, the largest first, three at most; those that were changed, if any."""
    numbers = {name: value for name, value in options if type(value) is int}
    fields = type(options).model_fields
    changed = {name: value for name, value in numbers.items() if value != fields[name].default}
    largest = sorted((changed or numbers).items(), key=_value, reverse=True)
    return ", ".join(f"agent.{name}={value}" for name, value in largest[:3])


def _value(item: tuple[str, int]) -> int:
    return item[1]


def device_bytes(name: str) -> int | None:
    """Return the memory of a CUDA device; None for other devices, which use the machine's."""
    wants_cuda = name.startswith(("cuda", "gpu", "auto"))
    if not wants_cuda or not torch.cuda.is_available():
        return None
    return torch.cuda.mem_get_info()[1]


def check_activations(
    config: OfflineRun, batch: Batch, forward: Callable[[Batch], object], available: int | None
) -> None:
    """Raise a UsageError if the activations that a batch's gradient needs don't fit."""
    whole = len(batch.fresh)
    segments = _full_segments(config, batch)
    needed = activation_bytes(batch, forward) * segments
    cause = f"batch_size={whole}, segments={segments}: the activations of an update"
    check_fits(cause, needed, "choose fewer sequences, a smaller agent, or gradient='replay'", available)


def activation_bytes(batch: Batch, forward: Callable[[Batch], object]) -> int:
    """Return the bytes that the gradient of a batch's forward pass needs, from those of one and of two sequences."""
    size = len(batch.fresh)
    if size < 2:
        return 0
    one, two = (saved_bytes(batch.select(torch.arange(count)), forward) for count in (1, 2))
    return one + (size - 1) * (two - one)


def _full_segments(config: OfflineRun, batch: Batch) -> int:
    """Return how many segments as long as the first one keep their activations at once."""
    if config.training.gradient != "full":
        return 1
    lengths = [segment.returns_to_go.shape[1] for segment in batch.segments]
    return lengths.count(lengths[0])


def saved_bytes(batch: Batch, forward: Callable[[Batch], object]) -> int:
    """Return the bytes of different tensors that the gradient of a forward pass needs, without weights."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not (tensor.requires_grad and tensor.is_leaf):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, _same):
        outputs = forward(batch)
    total = sum(saved.values())
    del outputs
    return total


def _same(value: Any) -> Any:
    return value
