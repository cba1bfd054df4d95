"""Acting by an exported graph: an agent whose step is computed by ONNX Runtime or by a graph of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmt_rl.agent import ActingState, Agent, BaseAgent
from rmt_rl.errors import UsageError
from rmt_rl.export import RuntimeName
from rmt_rl.export.formats import check_installed, to_onnx
from rmt_rl.export.graph import acting_program
from rmt_rl.export.interface import Interface, flat, nested
from rmt_rl.nn.outputs import not_finite
from rmt_rl.nn.sampling import BatchPart
from rmt_rl.observations import check_batch_size, only_value
from rmt_rl.tokens import observed_input
from rmt_rl.trees import map_leaves

Array = NDArray[Any]
Arrays = list[Array]
Run = Callable[[Arrays], Sequence[Array]]
"""Computes the outputs of a graph from its inputs."""


class ExportedAgent(BaseAgent):
    """An agent that acts by the exported graph of its step; its `predict` is that of the agent.

    Args:
        agent: the agent of the graph. Sampled actions are drawn by its head.
        interface: the inputs and outputs of the graph.
        run: computes the graph.
    """

    def __init__(self, agent: Agent, interface: Interface, run: Run) -> None:
        super().__init__(agent.config, agent.spec)
        self.agent, self._interface, self._run = agent, interface, run

    def target_return(self, wanted: float | None) -> float | None:
        return self.agent.target_return(wanted)

    def set_random_seed(self, seed: int | None) -> None:
        self.agent.set_random_seed(seed)

    def sample_part(self, part: BatchPart) -> None:
        self.agent.sample_part(part)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        original, returns = self.unwrap(observation)
        given = observed_input(original, returns, self.spec)
        batch_size = given.batch.size
        start = np.zeros(batch_size, bool)
        if episode_start is not None:
            start = np.atleast_1d(episode_start).astype(bool)
            check_batch_size("episode_start", len(start), batch_size)
        if state is None:
            state, start = self._zeros(batch_size), np.ones(batch_size, bool)
        check_batch_size("state", len(state.steps), batch_size)
        actions, following = self._step(given.batch.values, given.returns, start, state, deterministic)
        if given.batch.is_single:
            actions = only_value(actions, self.spec.action_space)
        return actions, following

    def _step(
        self, observation: Any, returns: Array, start: Array, state: ActingState, deterministic: bool
    ) -> tuple[Any, ActingState]:
        interface = self._interface
        last_action = flat(state.actions, interface.action) if interface.sees_action else []
        given_returns = [returns] if interface.return_to_go else []
        parts = [*flat(observation, interface.observation), *given_returns, start, state.steps, *last_action]
        ports = interface.inputs[: len(parts)]
        arrays = [np.asarray(part).astype(port.numpy_dtype) for part, port in zip(parts, ports, strict=True)]
        outputs = list(self._run([*arrays, *state.cache]))
        count = len(interface.action)
        logits, steps, *cache = outputs[count:]
        if not np.isfinite(logits).all():
            raise not_finite()
        actions = self._actions(outputs[:count]) if deterministic else self._sampled(logits)
        own_actions = map_leaves(np.copy, actions)  # callers may change theirs
        return actions, ActingState(tuple(cache), steps, own_actions)

    def _actions(self, parts: Arrays) -> Any:
        ports = self._interface.action
        typed = [part.astype(cast("str", port.space_dtype)) for part, port in zip(parts, ports, strict=True)]
        return nested(typed, ports, self.spec.action_space)

    def _sampled(self, logits: Array) -> Any:
        head = self.agent.head
        chosen = self.agent.sampler.choose(head, torch.from_numpy(logits))
        return head.values(chosen.numpy())

    def _zeros(self, batch_size: int) -> ActingState:
        """Return a state whose numbers mean nothing, because episodes start."""
        interface = self._interface
        parts = [port.zeros(batch_size).numpy() for port in interface.action]
        actions = nested(parts, interface.action, self.spec.action_space)
        cache = tuple(port.zeros(batch_size).numpy() for port in interface.cache)
        return ActingState(cache, np.zeros(batch_size, np.int64), actions)


def with_runtime(agent: BaseAgent, runtime: RuntimeName) -> BaseAgent:
    """Return the agent as it acts by a runtime: itself by PyTorch, or by a graph of ONNX.

    Raises:
        UsageError: a package is missing, or no graph can be made of the agent.
    """
    if runtime == "torch":
        return agent
    check_installed("runtime='onnx'", ("onnx", "onnxscript", "onnxruntime"))
    segment_agent = check_acts_from_segments(agent).cpu()
    program, interface = acting_program(segment_agent)
    names = [port.name for port in interface.inputs]
    content = to_onnx(program, names, [port.name for port in interface.outputs])
    return ExportedAgent(segment_agent, interface, onnx_run(content, names))


def check_acts_from_segments(agent: BaseAgent) -> Agent:
    """Return an agent that learns from segments as it is.

    Raises:
        UsageError: the agent's networks are those of another library.
    """
    if isinstance(agent, Agent):
        return agent
    raise UsageError(
        f"agent {type(agent).__name__} isn't exported: its networks are those of Stable-Baselines3, which has its own "
        "means (https://stable-baselines3.readthedocs.io/en/master/guide/export.html) for rmt_rl.load(run).policy"
    )


def onnx_run(content: bytes, names: Sequence[str]) -> Run:
    """Return a function that computes an ONNX model on one thread, from its inputs in the order of these names."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the steps of an agent are small
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(arrays: Arrays) -> Sequence[Array]:
        outputs: Sequence[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    return run


def torch_run(module: nn.Module) -> Run:
    """Return a function that computes the module of a program of `torch.export`."""

    @torch.inference_mode()
    def run(arrays: Arrays) -> Sequence[Array]:
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        outputs: Sequence[Tensor] = module(*tensors)
        return [output.numpy() for output in outputs]

    return run
