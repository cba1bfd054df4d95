"""Exports of token models: a segment as one graph.

Dimensions: B batch elements, L tokens of a full segment, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from rmt_rl.export import FormatName
from rmt_rl.export.formats import FORMATS, check_installed
from rmt_rl.export.graph import EXAMPLES, Tensors, trace
from rmt_rl.export.interface import Port, state_ports
from rmt_rl.export.saving import FORMAT, Values, shape_of, to_json, write_files
from rmt_rl.files import check_writable
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.recurrence import clone, tree_fill, tree_leaves, where_lanes

STEM = "token_model"


class SegmentGraph(nn.Module):
    """A segment of a token model: ids, their numbers, fresh starts and memories in; logits and memories out."""

    def __init__(self, model: RecurrentMemoryTransformer) -> None:
        super().__init__()
        self.model = model
        self.initial = clone(model.initial_state(1))
        length = model.seq_len
        self.inputs = [
            Port("ids", (length,), torch.int64),
            Port("lengths", (), torch.int64),
            Port("sequence_start", (), torch.bool),
        ]
        self.state = list(state_ports(self.initial, "memories"))
        self.logits = Port("logits", (length, model.num_tokens), model.head.weight.dtype)

    def forward(self, *arguments: Tensor) -> Tensors:
        """Return logits (B, L, V) and the next memories, given ids (B, L), lengths (B,), starts (B,) and memories."""
        ids_BL, lengths_B, start_B, *leaves = arguments
        given = tree_fill(self.initial, leaves)
        state = where_lanes(start_B, self.initial, given)
        y_BLD, following = self.model.core(self.model.embedded(ids_BL), state, lengths_B)
        kept = where_lanes(lengths_B > 0, following, state)
        return (self.model.head(y_BLD), *clone(tuple(tree_leaves(kept))))


def export_token_model(
    model: RecurrentMemoryTransformer,
    folder: Path,
    format_name: FormatName,
    vocabulary: Sequence[str] = (),
) -> list[Path]:
    """Export a token model's segment, and return the files that were written: the graph and its description.

    A segment has `seq_len` ids. Fewer real tokens come first, and `lengths` holds their numbers. Where
    `sequence_start` is True, the memories that are given don't count.

    Args:
        model: the model, on the CPU.
        folder: folder of the files.
        format_name: a name of `FORMATS`.
        vocabulary: words by their ids, for the description.

    Raises:
        UsageError: a package is missing, the model can't be exported, or the folder can't be written to.
    """
    file_format = FORMATS[format_name]
    check_installed(f"format {format_name!r}", file_format.needs)
    check_writable(folder, "choose another folder")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            graph = SegmentGraph(model)
        inputs = [*graph.inputs, *graph.state]
        example = [port.zeros(EXAMPLES) for port in inputs]
        program = trace(graph, example)
    finally:
        model.train(was_training)
    following = [port.renamed(f"next_{port.name}") for port in graph.state]
    outputs = [graph.logits, *following]
    content = file_format.write(program, [port.name for port in inputs], [port.name for port in outputs])
    described: Values = {
        "format": FORMAT,
        "rmt_rl": version("rmt-rl"),
        "inputs": [shape_of(port) for port in inputs],
        "outputs": [shape_of(port) for port in outputs],
        "state": [{"input": port.name, "output": f"next_{port.name}"} for port in graph.state],
        "vocabulary": list(vocabulary),
    }
    files = {f"{STEM}{file_format.suffix}": content, f"{STEM}.json": to_json(described)}
    return write_files(folder, files)
