"""The table of speeds on a GPU, with a CPU in all columns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.speed.gpu import NO_DEVICE, Form, Work, main, table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_a_cuda_device_is_told_in_one_line() -> None:
    with pytest.raises(SystemExit, match=NO_DEVICE):
        main([])


def test_every_work_has_a_row_for_training_and_two_for_acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    options = {"layers": 1, "width": 16, "segment_length": 30}
    forms = tuple(Form(name, {"accelerator": "cpu"}) for name in ("CPU", "CUDA fp32", "CUDA TF32"))
    lines = table((Work("rate", options, 4, updates=1, steps=2),), forms)
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {5}
