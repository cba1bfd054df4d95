"""Show what a run's memory holds and when it is written, in tables, a picture and a file of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import RUN, Arguments, ReadsRuns
from rmt_rl.config import SEED_LIMIT
from rmt_rl.files import check_writable
from rmt_rl.flags import parse
from rmt_rl.terminal import say

if TYPE_CHECKING:
    from rmt_rl.data.segment import Segment


class Inspect(ReadsRuns):
    """Measure how far each segment changes a run's memory, by which of its steps, and what noise leaves of it."""

    run: Positional[str] = Field(description=RUN)
    out: Path | None = Field(
        None,
        description="folder of inspection.png and inspection.json (unset: the run's, or below runs/ if it is read "
        "only)",
    )
    segments: int = Field(10_000, ge=1, description="filler segments that memories are carried through")
    episodes: int = Field(64, ge=1, description="episodes that are looked at segment by segment")
    memories: int = Field(8, ge=1, description="memories carried through the same filler segments")
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description="seed of the choice of episodes and filler segments")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")
    device: str = Field("cpu", description="where the agent runs, e.g. cpu or cuda")


def inspect_memory(arguments: Arguments) -> int:
    """Print tables, and the paths of the picture and of the file of numbers."""
    given = parse(Inspect, arguments, "rmt-rl inspect", __doc__ or "")
    given.import_modules()
    from rich.console import Console
    from rich.progress import track

    from rmt_rl.analysis.inspection.inspect_run import inspect_run, write_inspection
    from rmt_rl.analysis.inspection.picture import draw_inspection
    from rmt_rl.analysis.inspection.tables import inspection_tables
    from rmt_rl.runs.find import find_run
    from rmt_rl.runs.folder import read_config

    run = find_run(given.run)
    read_config(run.folder)  # a folder that holds no run says so first
    folder = given.out or run.out or run.folder
    check_writable(folder, "name another folder by --out")
    console = Console(stderr=True)

    def watched(fillers: Iterator[Segment]) -> Iterable[Segment]:
        shown = console.is_interactive
        return track(fillers, "noise", given.segments, console=console, transient=True) if shown else fillers

    found = inspect_run(
        run.folder,
        given.checkpoint,
        segments=given.segments,
        episodes=given.episodes,
        lanes=given.memories,
        seed=given.seed,
        device=given.device,
        watched=watched,
    )
    written = write_inspection(found, folder), draw_inspection(found, folder)
    say(inspection_tables(found))
    for path in written:
        say(path)
    return 0


COMMAND = inspect_memory
