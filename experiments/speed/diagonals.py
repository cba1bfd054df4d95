"""Layers in diagonals beside layers one after the other: `python -m experiments.speed.diagonals`.

If each layer has a memory of its own, segment s of layer l needs only segment s of layer l - 1 and segment s - 1 of
layer l. So all pairs with the same s + l can be computed together (arXiv 2506.05229). Here `vmap` runs the stacked
weights of these layers. This is a trial: agents run their layers one after the other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.speed.machine import machine
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.files import write_atomically
from rmt_rl.memory.elmur import ELMURLayer
from rmt_rl.memory.gated_transformer_xl import GatedTransformerXLLayer
from rmt_rl.memory.transformer_xl import TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig
from rmt_rl.recurrence import SegmentRecurrent, Stack, Tree, tree_map

Layer = SegmentRecurrent[Any, Any]
Outputs = list[Tensor]
CONFIG = DecoderConfig(width=64, heads=4)
CACHED = 8  # tokens
REPEATS = 3
HEAD = (
    "layer",
    "batch",
    "segments",
    "tokens",
    "layers",
    "in turn, s",
    "diagonals, s",
    "gain, forward and backward",
    "gain, forward",
    "largest difference",
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the work: batch elements, segments, tokens of a segment, layers."""

    batch: int
    segments: int
    tokens: int
    layers: int


SHAPES = (Shape(1, 64, 8, 4), Shape(1, 64, 8, 8), Shape(8, 32, 8, 8), Shape(64, 3, 90, 4))
QUICK = (Shape(2, 3, 4, 2),)
LAYERS: dict[str, Callable[[], Layer]] = {
    "trxl": lambda: TransformerXLLayer(CONFIG, cached=CACHED),
    "gtrxl": lambda: GatedTransformerXLLayer(CONFIG, cached=CACHED),
    "elmur": lambda: ELMURLayer(CONFIG, slots=4, blend=0.5),
}


def in_turn(layers: Sequence[Layer], segments: Sequence[Tensor]) -> Outputs:
    """Return the outputs (B, L, D) of each segment; each runs through all layers before the next segment does."""
    stack = Stack(layers)
    state = stack.initial_state(len(segments[0]))
    outputs = []
    for x_BLD in segments:
        y_BLD, state = stack(x_BLD, state)
        outputs.append(y_BLD)
    return outputs


def in_diagonals(layers: Sequence[Layer], weights: dict[str, Tensor], segments: Sequence[Tensor]) -> Outputs:
    """Return the same outputs. `weights` are the layers' own, stacked along a first dimension."""

    def run(own: dict[str, Tensor], x_BLD: Tensor, state: Tree) -> Any:
        return functional_call(layers[0], own, (x_BLD, state))

    run_all = vmap(run, randomness="different")
    states: list[Tree] = [layer.initial_state(len(segments[0])) for layer in layers]
    inputs = list(segments[:1]) * len(layers)  # what each layer reads next
    outputs = []
    for diagonal in range(len(segments) + len(layers) - 1):
        first = max(0, diagonal - len(segments) + 1)
        end = min(len(layers), diagonal + 1)
        if diagonal < len(segments):
            inputs[0] = segments[diagonal]
        own = {name: weight[first:end] for name, weight in weights.items()}
        state = tree_map(lambda *leaves: torch.stack(leaves), *states[first:end])
        y_NBLD, following = run_all(own, torch.stack(inputs[first:end]), state)
        for place, layer in enumerate(range(first, end)):
            states[layer] = tree_map(lambda leaf, place=place: leaf[place], following)
            if layer + 1 < len(layers):
                inputs[layer + 1] = y_NBLD[place]
            else:
                outputs.append(y_NBLD[place])
    return outputs


def measured(make: Callable[[], Layer], shape: Shape) -> dict[str, float]:
    """Measure both orders in turns, in CPU seconds, and the largest difference of their outputs."""
    torch.manual_seed(0)
    layers = [make() for _ in range(shape.layers)]
    stacked, _ = stack_module_state(layers)
    weights = {name: weight.detach().requires_grad_() for name, weight in stacked.items()}
    segments = [torch.randn(shape.batch, shape.tokens, CONFIG.width) for _ in range(shape.segments)]

    def turn() -> Outputs:
        return in_turn(layers, segments)

    def diagonals() -> Outputs:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel can't be mapped if its mask has a gradient
            return in_diagonals(layers, weights, segments)

    pairs = zip(turn(), diagonals(), strict=True)
    found = {"difference": max(float((one - other).detach().abs().max()) for one, other in pairs)}
    for name, train in (("training", True), ("forward", False)):
        times = [(_seconds(turn, train), _seconds(diagonals, train)) for _ in range(REPEATS)]
        found[f"{name}, in turn"] = median(one for one, _ in times)
        found[f"{name}, diagonals"] = median(other for _, other in times)
        found[f"{name}, gain"] = median(one / other for one, other in times)
    return found


def _seconds(work: Callable[[], Outputs], train: bool) -> float:
    began = time.process_time()
    with torch.set_grad_enabled(train):
        outputs = work()
        if train:
            torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return time.process_time() - began


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny shape")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the two files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    where = machine()
    found = []
    for name, make in LAYERS.items():
        for shape in QUICK if options.quick else SHAPES:
            found.append({"layer": name, **asdict(shape), **measured(make, shape)})
            print(json.dumps(found[-1]), flush=True)
    text = diagonals_report(where, found)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "results": found}
    write_atomically(options.out / "diagonals.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "diagonals.md", text.encode())


def diagonals_report(where: dict[str, str], found: list[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    rows = []
    for one in found:
        sizes = [one["layer"], *(str(one[name]) for name in ("batch", "segments", "tokens", "layers"))]
        times = [f"{one[name]:.3f}" for name in ("training, in turn", "training, diagonals")]
        gains = [f"**{one[name]:.2f}**" for name in ("training, gain", "forward, gain")]
        rows.append([*sizes, *times, *gains, f"{one['difference']:.0e}"])
    machine_line = ", ".join(f"{key} {value}" for key, value in where.items())
    return (
        "<!-- Written by `python -m experiments.speed.diagonals`. -->\n\n"
        f"Measured on {machine_line}.\n\n{markdown_table(HEAD, rows)}\n"
    )


if __name__ == "__main__":
    main()
