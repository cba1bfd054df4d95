"""FLOPs of the forward pass: a formula for decoders, all at once or segment by segment, and PyTorch's own counter.

Letters in formulas: n positions, m of them that the head reads, d width, h heads, a width of all heads together, f
hidden width and g matrices of the feed-forward net, v outputs of the head; a multiply-add is 2 FLOPs.

RMT scaled (arXiv 2304.11062) states that 4096 segments of 512 tokens take 295 (OPT-125M) and 29 (OPT-175B) times fewer
FLOPs than full attention over them. Counted as by Hoffmann et al., without memory tokens, it is 294.8 and 29.3.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import prod
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.recurrence import SegmentRecurrent

CountingName = Literal["chinchilla", "matmuls", "causal"]


class Shape(NamedTuple):
    """The sizes of a decoder that decide its FLOPs."""

    layers: int
    width: int
    heads: int
    head_width: int
    hidden: int
    vocabulary: int  # outputs of the head; 0: no head
    matrices: int = 2  # of the feed-forward net; 3 of a gated one

    @classmethod
    def of(cls, config: DecoderConfig, vocabulary: int = 0) -> Self:
        """Return the shape of our own decoder, with a head of so many outputs behind it."""
        with torch.device("meta"):
            layer = DecoderLayer(config)
        into, back = (part for part in layer.feed_forward if isinstance(part, nn.Linear))
        hidden = back.in_features
        return cls(
            layers=config.layers,
            width=layer.width,
            heads=layer.heads,
            head_width=layer.head_width,
            hidden=hidden,
            vocabulary=vocabulary,
            matrices=1 + into.out_features // hidden,
        )


def _opt(layers: int, heads: int, width: int) -> Shape:
    return Shape(layers, width, heads, width // heads, 4 * width, 50_272)


# Layers, heads and widths of OPT (arXiv 2205.01068), table 1; its vocabulary is that of the published weights. Without
# OPT-350M, which embeds in another width than it computes in.
OPT = {
    "OPT-125M": _opt(12, 12, 768),
    "OPT-1.3B": _opt(24, 32, 2048),
    "OPT-2.7B": _opt(32, 32, 2560),
    "OPT-6.7B": _opt(32, 32, 4096),
    "OPT-13B": _opt(40, 40, 5120),
    "OPT-30B": _opt(48, 56, 7168),
    "OPT-66B": _opt(64, 72, 9216),
    "OPT-175B": _opt(96, 96, 12288),
}


class Counting(NamedTuple):
    """The FLOPs of attention that count."""

    softmax: int = 3  # of each attention weight
    causal: bool = False  # of the square of attention only the half that a causal mask leaves

    def __str__(self) -> str:
        half = 2 if self.causal else 1
        softmax = f" + {self.softmax / half:g} h n²" if self.softmax else ""
        return f"layers x (6 n d a + {4 // half} n² a{softmax} + 2 n a d + 2 g n d f) + 2 m d v"


COUNTINGS: dict[CountingName, Counting] = {
    "chinchilla": Counting(),  # Hoffmann et al. (arXiv 2203.15556), appendix F
    "matmuls": Counting(softmax=0),  # PyTorch's counter counts our decoders so
    "causal": Counting(softmax=0, causal=True),
}
assert set(COUNTINGS) == set(get_args(CountingName))
CHINCHILLA, MATMULS = COUNTINGS["chinchilla"], COUNTINGS["matmuls"]


def forward_terms(
    shape: Shape,
    positions: int,
    read: int | None = None,
    counting: Counting = CHINCHILLA,
) -> dict[str, int]:
    """Return the FLOPs of one forward pass over n positions, term by term, all layers together.

    Hoffmann et al. (arXiv 2203.15556), appendix F, without its embedding, which is a look-up here. (As a product of 2 n
    v d FLOPs it would make the ratios above 228.7 and 29.2.) Biases, norms, activations and sums count nothing.

    Args:
        shape: the decoder.
        positions: n, memory tokens included.
        read: m, positions that the head reads; None: all.
        counting: the FLOPs of attention that count.
    """
    layers, d, h, head_width, f, v, g = shape
    n = positions
    m = positions if read is None else read
    a = h * head_width
    half = 2 if counting.causal else 1
    return {
        "queries, keys, values": layers * 2 * 3 * n * d * a,  # n x d by d x a, three times
        "logits": layers * 2 * n * n * a // half,  # in each head n x a/h by a/h x n
        "softmax": layers * counting.softmax * h * n * n // half,
        "reduction": layers * 2 * n * n * a // half,  # in each head n x n by n x a/h
        "output": layers * 2 * n * a * d,  # n x a by a x d
        "feed-forward": layers * 2 * g * n * d * f,  # n x d by d x f, and back
        "head": 2 * m * d * v,  # m x d by d x v
    }


def full_attention_flops(shape: Shape, tokens: int, counting: Counting = CHINCHILLA) -> int:
    """Return the FLOPs with attention over all tokens at once."""
    terms = forward_terms(shape, tokens, counting=counting)
    return sum(terms.values())


def segmented_flops(
    shape: Shape,
    segments: int,
    tokens: int,
    memory: int = 0,
    counting: Counting = CHINCHILLA,
) -> int:
    """Return the FLOPs segment by segment: in each so many new tokens, `memory` tokens to read and as many to write.

    The head reads new tokens only, as in `rmt_rl.memory.tokens.MemoryTokens` with a head behind it.
    """
    terms = forward_terms(shape, tokens + 2 * memory, tokens, counting)
    return segments * sum(terms.values())


def counted_flops(forward: Callable[[], object]) -> int:
    """Return the FLOPs that PyTorch counts in a call on the CPU.

    PyTorch counts matrix products, convolutions and whole squares of attention. It leaves out all that works element
    by element (norms, softmax, activations, gates, rotations, cumulative sums). The fused kernels of attention and of
    LSTMs for CPUs, which it doesn't know, are counted like the others.
    """
    with FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        forward()
    return int(counter.get_total_flops())


def _attention(q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _lstm(x_LBD: Any, from_input: Any, from_hidden: Any, *rest: Any, **named: Any) -> int:
    tokens = prod(x_LBD[:2])
    weights = prod(from_input) + prod(from_hidden)
    return int(2 * tokens * weights)


_FUSED_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
}


def counted_segment_flops(core: SegmentRecurrent[Any, Any], tokens: int) -> int:
    """Return the FLOPs that PyTorch counts in a segment of one sequence, from where on segments cost the same.

    That is the second one or, where a window of past tokens fills first, one with a full window. For a token model,
    head and embedding aside: `counted_segment_flops(model.core, model.seq_len)`.
    """
    core = deepcopy(core).requires_grad_(False)  # PyTorch's counter can't do with no_grad
    x_BLD = torch.zeros(1, tokens, core.width)
    state = core.initial_state(1)

    def run_segment() -> None:
        nonlocal state
        _, state = core(x_BLD, state)

    before, flops = -1, 0
    while flops > before:
        before, flops = flops, counted_flops(run_segment)
    return flops
