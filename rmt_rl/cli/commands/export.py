"""Export a run's agent as one graph that runs without this toolkit: rmt-rl export RUN --format onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import RUN, Arguments, ReadsRuns
from rmt_rl.export import FormatName
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class Export(ReadsRuns):
    """Write a run's agent as one graph, with a JSON that describes it and an example that acts by it."""

    run: Positional[str] = Field(description=RUN)
    format: FormatName = Field(
        "onnx", description="onnx, for ONNX Runtime and others; torch, a program of torch.export"
    )
    out: Path | None = Field(None, description="folder of the files (unset: `export` in the run's)")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")


def export_agent(arguments: Arguments) -> int:
    """Export an agent and print the files."""
    given = parse(Export, arguments, "rmt-rl export", __doc__ or "")
    given.import_modules()
    from rmt_rl.export.saving import export_run
    from rmt_rl.runs.find import find_run

    run = find_run(given.run)
    out = given.out or (run.out or run.folder) / "export"
    for path in export_run(run.folder, given.format, out, given.checkpoint):
        say(path)
    return 0


COMMAND = export_agent
