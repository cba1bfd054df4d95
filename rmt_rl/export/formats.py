"""Formats of exported graphs: a file of `torch.export`, or of ONNX."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.export import ExportedProgram

from rmt_rl.errors import UsageError
from rmt_rl.export import FormatName
from rmt_rl.export.graph import not_exportable, quiet
from rmt_rl.plugins import import_extra

Write = Callable[[ExportedProgram, Sequence[str], Sequence[str]], bytes]
LARGEST_ONNX = (1 << 31) - 1  # bytes of a message of protobuf


class Format(NamedTuple):
    """A format.

    Attributes:
        suffix: of its files.
        write: returns a file's content, from a graph and the names of its inputs and outputs.
        needs: packages that it needs.
    """

    suffix: str
    write: Write
    needs: tuple[str, ...] = ()


def check_installed(what: str, packages: Sequence[str]) -> None:
    """Raise UsageError if one of the packages of the extra `export` isn't installed."""
    for package in packages:
        import_extra(package, "export", what)


def to_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return an ONNX model.

    Raises:
        UsageError: the graph has an operator that ONNX lacks, or is larger than 2 GiB.
    """
    with quiet():
        try:
            exported = torch.onnx.export(
                program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False, optimize=True
            )
        except RuntimeError as error:  # all errors of the exporter are of this class
            raise not_exportable(error) from error
    assert exported is not None
    model = exported.model_proto
    if model.ByteSize() > LARGEST_ONNX:
        raise UsageError("the agent is larger than 2 GiB, more than one ONNX file holds; choose --format torch")
    content: bytes = model.SerializeToString()
    return content


def to_torch(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return a program of `torch.export`, which `torch.export.load` reads. It has no names of inputs and outputs."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content)
    return content.getvalue()


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", to_onnx, ("onnx", "onnxscript")),
    "torch": Format(".pt2", to_torch),
}
