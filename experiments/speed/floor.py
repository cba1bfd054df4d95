"""The floor: the operations that training needs, over the machine's rate of matrix products."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from experiments.speed.sizes import Size
from experiments.speed.training import POOL, Training
from experiments.speed.turns import Result


class Product(NamedTuple):
    """A matrix product, (rows, inner) by (inner, columns)."""

    rows: int
    inner: int
    columns: int


SQUARE = Product(1024, 1024, 1024)


def floor(size: Size) -> Result:
    """Measure FLOPs a real step (2 a multiply-add, causal attention as half a square), and the machine's rates."""
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
    smaller = replace(size, batch_size=size.batch_size // 8)  # as many FLOPs a step, and sooner done
    work = Training(smaller)
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work.run(POOL)
    steps = work.steps(range(POOL))
    return {
        "flops_per_step": counter.get_total_flops() / steps,
        "attention_flops_per_step": sum(attention) / steps,
        "square_flops_per_second": matrix_rate([SQUARE]),
        "layer_flops_per_second": matrix_rate(layer_products(size)),
    }


def layer_products(size: Size) -> list[Product]:
    """Return the matrix products of one layer on a full batch, forward and backward."""
    options = size.options
    width, hidden = options["width"], options["hidden"]
    inner = options["heads"] * options.get("head_width", width // options["heads"])
    tokens = size.batch_size * (3 * options["segment_length"] + 2 * options["memory_tokens"])
    products = []
    for into, out in [
        (width, 2 * inner),
        (width, inner),
        (inner, width),
        (width, hidden),
        (hidden, width),
    ]:
        products += [
            Product(tokens, into, out),  # the output
            Product(tokens, out, into),  # the gradient of the input
            Product(out, tokens, into),  # the gradient of the weights
        ]
    return products


def matrix_rate(products: list[Product], seconds: float = 0.05) -> float:
    """Return floating-point operations a CPU second in float32 products of these sizes."""
    flops = time_taken = 0.0
    for rows, inner, columns in products:
        left = torch.randn(rows, inner)
        right = torch.randn(inner, columns)
        left @ right
        began, count = time.process_time(), 0
        while time.process_time() - began < seconds:
            left @ right
            count += 1
        flops += 2 * rows * inner * columns
        time_taken += (time.process_time() - began) / count
    return flops / time_taken
