"""Contract tests (tests/test_recurrence_contract.py) for compositions of cores that no class has among its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import test_recurrence_contract as contract

Core = contract.Core

every_check = pytest.mark.parametrize(
    "check",
    [
        contract.test_stepwise_equals_segmentwise,
        contract.test_lanes_at_mixed_places,
        contract.test_padding_changes_nothing,
        contract.test_no_output_depends_on_a_later_token,
        contract.test_replayed_gradient_is_the_full_gradient,
    ],
)


def fulfils(check: Callable[[Core, Tensor], None], core: Core) -> None:
    """Run one test of the contract on a core, in float64."""
    torch.manual_seed(1)
    tokens = torch.randn(contract.LANES, 4 * contract.LENGTH, contract.WIDTH, dtype=torch.float64)
    check(core.double().eval(), tokens)


def run(core: Core, x_BLD: Tensor, state: Any = None) -> Tensor:
    """Return the outputs of a segment. Without a state, begin with the initial one."""
    y_BLD: Tensor = core(x_BLD, core.initial_state(len(x_BLD)) if state is None else state)[0]
    return y_BLD
