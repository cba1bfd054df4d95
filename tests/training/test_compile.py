"""The options `compile` and `matmul_precision`. Kernels aren't generated here, which takes minutes on some machines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rmt_rl.errors import UsageError
from rmt_rl.runs.options import make_config
from rmt_rl.training.runner import check_compiler
from rmt_rl.training.segments import SegmentLearner
from tests.tiny import Values, started, tiny, work_folder


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> object:
    with work_folder(tmp_path_factory) as path:
        yield path


def losses(learner: SegmentLearner, updates: int) -> list[float]:
    """Return the losses of the first updates."""
    return [float(learner.advance()["train/loss"]) for _ in range(updates)]


def test_the_option_compiles_the_forward_pass(tmp_path: Path) -> None:
    """Compiled updates are those of eager mode. The graphs are PyTorch's, run by its own kernels."""
    expected = losses(started(tiny(data={"segments": 1}), tmp_path), 2)
    learner = started(tiny(compile=True, data={"segments": 1}), tmp_path)
    assert learner.runner.call is not learner.model
    learner.runner.call = torch.compile(learner.model, backend="aot_eager")
    assert losses(learner, 2) == pytest.approx(expected, rel=1e-5)
    graph_breaks = torch._dynamo.utils.counters["graph_break"]
    assert not graph_breaks, "the agent's forward pass isn't one graph"


def test_a_compiler_that_is_missing_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/compiler",))
    with pytest.raises(UsageError, match=r"compile=True: PyTorch can't compile for cpu .* or leave --compile out"):
        check_compiler(torch.device("cpu"))


def test_a_config_without_the_options_is_one_of_before(tmp_path: Path) -> None:
    values: Values = tiny().model_dump(mode="json", exclude_none=True)
    del values["training"]["compile"], values["training"]["matmul_precision"]
    assert make_config(values) == tiny()


def test_precision_of_products_is_untouched_on_a_cpu(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    started(tiny(matmul_precision="medium"), tmp_path)
    assert torch.get_float32_matmul_precision() == before
