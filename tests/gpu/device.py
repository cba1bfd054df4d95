"""The device of these tests: CUDA. With GPU_CHECK_DEVICE=cpu they run on a CPU, which shows that they do their work."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

DEVICE = torch.device(os.environ.get("GPU_CHECK_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"
IS_THERE = torch.cuda.is_available() or not ON_CUDA  # otherwise no test of this folder is collected
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="needs a CUDA device")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # distance from a CPU's float32, as a share


def number_format(precision: str) -> AbstractContextManager[object]:
    """Return a context in which products are computed in this precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(DEVICE.type, PRECISIONS[precision])
