"""Training on a GPU: like the CPU's, the same twice, the same compiled, and without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.measures import read
from rmt_rl.training.segments import SegmentLearner
from tests.agents.examples import agents
from tests.gpu.device import DEVICE, ON_CUDA, needs_cuda
from tests.tiny import known_options, started, tiny, work_folder

AGENTS = [param.id for param in agents() if not param.marks]
UPDATES = 4


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with work_folder(tmp_path_factory):
        yield


def learner_of(agent: str, **training: Any) -> SegmentLearner:
    """Return a learner on the device, whose products are exact unless asked otherwise."""
    options = {"accelerator": DEVICE.type, "matmul_precision": "highest"} | training
    small = known_options(agent, {"segment_length": 4, "width": 16, "layers": 1, "heads": 2})
    config = tiny("bc", **options)
    values = config.model_dump(mode="json", exclude_none=True) | {"agent": agent, "agent_options": small}
    changed = make_config(values)
    assert isinstance(changed, OfflineRun)
    return started(changed, Path("no run"))


def losses(learner: SegmentLearner) -> list[float]:
    """Return the losses of some updates."""
    measured = [learner.advance() for _ in range(UPDATES)]
    return [metrics["train/loss"] for metrics in read(measured)]


def weights(learner: SegmentLearner) -> list[Tensor]:
    """Return the weights."""
    return [parameter.detach().cpu() for parameter in learner.model.parameters()]


@pytest.mark.parametrize("agent", AGENTS)
def test_losses_are_those_of_the_cpu(agent: str) -> None:
    expected = losses(learner_of(agent, accelerator="cpu"))
    assert losses(learner_of(agent)) == pytest.approx(expected, rel=1e-3)
    assert losses(learner_of(agent, precision="bf16-mixed")) == pytest.approx(expected, rel=0.05)
    assert losses(learner_of(agent, matmul_precision="high")) == pytest.approx(expected, rel=0.02)


@contextmanager
def deterministic() -> Iterator[None]:
    """Let PyTorch choose kernels that give the same numbers every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("agent", AGENTS)
def test_training_twice_gives_the_same_weights(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    one, other = learner_of(agent), learner_of(agent)
    with deterministic():
        assert losses(one) == losses(other)
    assert all(map(torch.equal, weights(one), weights(other)))


@pytest.mark.parametrize("gradient", ["full", "replay"])
def test_compiled_training_is_like_eager(gradient: str) -> None:
    expected = losses(learner_of("rate", gradient=gradient))
    assert losses(learner_of("rate", gradient=gradient, compile=True)) == pytest.approx(expected, rel=1e-3)


@needs_cuda
@pytest.mark.parametrize("agent", AGENTS)
def test_an_update_does_not_wait_for_the_device(agent: str) -> None:
    learner = learner_of(agent)
    losses(learner)  # makes tables and the optimiser's state
    assert ON_CUDA
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
