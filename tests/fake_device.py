"""A device without memory: agents train and act on it, and what a GPU would make the host wait for is counted.

Tensors are PyTorch's fake ones: they have a device, a dtype and a shape, but no values. An operation on tensors of
unlike devices fails as on a GPU. Wherever a value is asked for, the host would wait for the device; the value is 1.

Run as `python -m tests.fake_device`, it prints a JSON object of `Counts` by name of agent and work. It needs a process
of its own, because it registers a backend and replaces methods of PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypedDict, get_args
from unittest import mock

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.nn import attention, sampling
from rmt_rl.nn.heads import HeadName, head
from rmt_rl.registry import agent_class, load_task, names
from rmt_rl.runs.options import OfflineRun, Schedule, make_config
from rmt_rl.training.loop import Loop
from rmt_rl.training.parallel import FabricProcesses
from rmt_rl.training.segments import SegmentLearner
from rmt_rl.wrappers import VectorReturnToGo
from tests.tiny import known_options

NAME = "imaginary"
DEVICE = torch.device("privateuseone", 0)  # the name that PyTorch keeps for a backend before it is registered
ENVIRONMENTS = 3
CORRIDORS: dict[str, Any] = {"corridor_length": (1, 3)}  # episodes of 2 to 5 steps
LOG_EVERY = 2  # updates
SAMPLED = "rmt"  # the agent that draws its actions
ROOMS = ("rmt_rl", "agents")
ASKING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal")
"""Operators whose result, or the shape of it, depends on values, so that the host waits for them."""
OTHERS: dict[str, dict[str, Any]] = {
    "rate replay": {"training": {"gradient": "replay"}},
    "rate ageing": {"training": {"ageing": 2, "ageing_from": 0, "ageing_updates": 3}},
    "rate streams": {"data": {"feed": "streams"}},
    "rate windows": {"data": {"feed": "windows", "burn_in": 1}},
    "rate curriculum": {"training": {"curriculum": 0.5}},
}
"""Options of training that take other paths, by a name that begins with the agent's."""


def _gru_cell(from_input: Tensor, from_hidden: Tensor, hidden: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), hidden.new_empty(len(hidden), 5 * hidden.shape[1])


def _gru_cell_backward(gradient: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor, ...]:
    batch_size, width = gradient.shape
    shapes = ((batch_size, 3 * width), (batch_size, 3 * width), (batch_size, width), (3 * width,), (3 * width,))
    return tuple(gradient.new_empty(shape) for shape in shapes)


def _exponential(values: Tensor, *rate: float) -> Tensor:
    return values


KERNELS: dict[str, Callable[..., Any]] = {
    "aten::_thnn_fused_gru_cell": _gru_cell,
    "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "aten::exponential_": _exponential,
}
"""Operators that fake tensors lack; their results have no values."""


class Counts(TypedDict):
    """The places in the code at which the host waits for the device, once for each time, and blocking copies to it."""

    waits: list[str]
    blocking: list[str]


class Observer(TorchDispatchMode):
    """Notes every wait and every blocking copy since the last `taken`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []
        self.blocking: list[str] = []

    def taken(self) -> Counts:
        """Return what was noted since the last call."""
        noted = Counts(waits=self.waits, blocking=self.blocking)
        self.waits, self.blocking = [], []
        return noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func.namespace == "aten":  # in which compound operators come whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        name = func._schema.name
        if name in ASKING:
            if args[0].device == DEVICE:
                self.waits.append(f"{name} {_place()}")
            return self._answer(name, args[0])
        if name in KERNELS:
            return KERNELS[name](*args)
        if name == "aten::index" and any(map(_is_mask, args[1])):
            self.waits.append(f"boolean index {_place()}")
        if name in ("aten::_to_copy", "aten::copy_"):
            self._note_copy(name, args, kwargs)
        if name == "aten::_to_copy" and isinstance(args[0], FakeTensor):
            return _copied(args[0], kwargs)  # without the value that PyTorch keeps of a fake constant
        return func(*args, **kwargs)

    def _answer(self, name: str, asked: Tensor) -> Any:
        if name == "aten::_local_scalar_dense":
            return asked.new_ones((), device="cpu").numpy().item()
        if name == "aten::nonzero":
            return torch.zeros(max(1, len(asked) // 2), asked.ndim, dtype=torch.long, device=asked.device)
        raise NotImplementedError(name)

    def _note_copy(self, name: str, args: Any, kwargs: Any) -> None:
        in_place = name == "aten::copy_"
        source = args[1] if in_place else args[0]
        target = args[0].device if in_place else torch.device(kwargs.get("device") or source.device)
        non_blocking = kwargs.get("non_blocking") or (in_place and len(args) > 2 and args[2])
        if source.device.type == NAME and target.type == "cpu":
            self.waits.append(f"copy to the host {_place()}")
        if source.device.type == "cpu" and target.type == NAME and not non_blocking:
            self.blocking.append(f"{name} {_place()}")


def _copied(source: Tensor, options: dict[str, Any]) -> Tensor:
    """Return a tensor as `aten::_to_copy` does with these options."""
    dtype = options.get("dtype") or source.dtype
    device = options.get("device") or source.device
    return torch.empty(source.shape, dtype=dtype, device=device)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _place() -> str:
    """Return the innermost line of the project that runs."""
    for frame in reversed(traceback.extract_stack()):
        parts = Path(frame.filename).parts
        if any(room in parts[-4:-1] for room in ROOMS):
            return f"{'/'.join(parts[-3:])}:{frame.lineno} {frame.line}"
    return "outside"


def _numpy(tensor: Tensor, real: Callable[[Tensor], Any] = Tensor.numpy) -> Any:
    """Return ones in place of the values that a fake tensor hasn't."""
    if not isinstance(tensor, FakeTensor):
        return real(tensor)
    if tensor.device == DEVICE:
        raise TypeError(f"numpy() of a tensor on {DEVICE}")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return np.ones(tuple(tensor.shape), dtype)


def _tolist(tensor: FakeTensor) -> Any:
    return _numpy(tensor.cpu()).tolist()


def _moved(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Put empty tensors on the device in place of a module's."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                empty = _copied(parameter, {"device": device})
                part._parameters[name] = torch.nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = _copied(buffer, {"device": device})
    return module


@contextmanager
def imaginary_device() -> Iterator[Observer]:
    """Let learners work on the device, and observe."""
    patches: list[Any] = [
        mock.patch.object(FabricProcesses, "device", DEVICE),
        mock.patch.object(Tensor, "numpy", _numpy),
        mock.patch.object(FakeTensor, "tolist", _tolist),
        mock.patch.object(attention, "Tensor", FakeTensor),  # which tables of rotations are kept as
        mock.patch.object(attention, "_tables", {}),
        mock.patch.object(torch.nn.Module, "to", _moved),
        mock.patch.object(sampling, "_new_generator", return_value=torch.Generator()),
    ]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Observer())


def config_of(agent: str, options: dict[str, dict[str, Any]]) -> OfflineRun:
    """Return the config of a tiny run."""
    sizes = known_options(agent, {"segment_length": 2, "width": 8, "layers": 1, "heads": 2})
    values: dict[str, Any] = {
        "env": "tmaze",
        "agent": agent,
        "env_options": CORRIDORS,
        "agent_options": sizes,
        "data": {"segments": 2, "batch_size": 4, "bucket_batches": 1, "collect_episodes": 12},
        "training": {"accelerator": "cpu"},
        "evaluation": {"eval_episodes": 0},
    }
    for section, changed in options.items():
        values[section] = values[section] | changed
    config = make_config(values)
    assert isinstance(config, OfflineRun)
    return config


class Enough(Exception):
    """Ends a run without saving it, because fake tensors can't be saved."""


def trained(config: OfflineRun) -> dict[str, Counts]:
    """Return what is noted in the first update, before a line of metrics, and in the second, with a line."""
    noted: list[Counts] = []
    with imaginary_device() as observer:
        learner = SegmentLearner(config)
        learner.start()
        observer.taken()

        def report(update: int, metrics: dict[str, float]) -> None:
            noted.append(observer.taken())
            if update == LOG_EVERY:
                raise Enough

        schedule = Schedule(LOG_EVERY, save_every=10**6)
        try:
            Loop(learner, Path(tempfile.mkdtemp()), schedule, {}).run(report)
        except Enough:
            between, line = noted
    return {"before a line": between, "with a line": line}


def acted(config: OfflineRun, deterministic: bool) -> Counts:
    """Return what is noted in the worst step after the first, which makes tables.

    The environments stand at unlike places of their segments.
    """
    steps = 2 * config.agent_options.segment_length + 1
    env = make_vec_env(load_task("tmaze"), CORRIDORS, ENVIRONMENTS)
    spec = AgentSpec(env.single_observation_space, env.single_action_space, 1.0, 1.0)
    noted: list[Counts] = []
    with imaginary_device() as observer:
        agent = agent_class(config.agent)(config.agent_options, spec)
        agent.to(DEVICE)
        for _ in rollout(agent, VectorReturnToGo(env, 1.0), 10**6, seed=0, deterministic=deterministic):
            noted.append(observer.taken())
            if len(noted) == steps:
                break
    return max(noted[1:], key=_number)


def headed(family: HeadName) -> Counts:
    """Return what is noted while a head learns and chooses numbers between bounds, after a first time for tables."""
    box = spaces.Box(-2, 2, (3,))
    with imaginary_device() as observer:
        made = head(box, None, family)
        for _ in range(2):
            observer.taken()
            numbers = torch.empty(ENVIRONMENTS, made.size, device=DEVICE, requires_grad=True)
            actions = torch.empty(ENVIRONMENTS, 3, device=DEVICE)
            made.loss(numbers, actions).sum().backward()
            made.correct(numbers, actions)
            for generator in (None, torch.Generator()):
                made.choose(numbers, generator)
    return observer.taken()


def _half_formats() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def _never() -> bool:
    return False


def register() -> None:
    """Make the device known to PyTorch, with the functions that autocast asks for."""
    _setup_privateuseone_for_python_backend(NAME)
    module: Any = getattr(torch, NAME)
    module.get_amp_supported_dtype = _half_formats
    module.is_autocast_enabled = _never


def _number(counts: Counts) -> int:
    return len(counts["waits"]) + len(counts["blocking"])


def noted(config: OfflineRun, acts: bool) -> dict[str, Counts]:
    """Return what is noted in each kind of work of an agent."""
    counts = trained(config)
    if acts:
        counts["step"] = acted(config, deterministic=config.agent != SAMPLED)
    return counts


def failure(error: Exception) -> str:
    """Return an error's first line and the last line of the project that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if "site-packages" not in frame.filename]
    message = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {message[0]} ({lines[-2]} {lines[-1]})"


def main() -> None:
    """Let every agent train and act; print what was noted, or why it failed."""
    register()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Counts] | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        offline = [name for name in names("agents") if issubclass(agent_class(name), Agent)]
        for name in sys.argv[1:] or [*offline, *OTHERS]:
            config = config_of(name.split()[0], OTHERS.get(name, {}))
            try:
                found[name] = noted(config, acts=name in offline)
            except Exception as error:  # of any kind, told with the name of the agent
                found[name] = failure(error)
        found["heads"] = {family: headed(family) for family in get_args(HeadName)}
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
