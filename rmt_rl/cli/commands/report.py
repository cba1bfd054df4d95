"""Write runs into one HTML page: curves, tables, differences of options, and memory over an episode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from tyro.conf import Positional, UseAppendAction

from rmt_rl.cli.arguments import RUNS, Arguments, ReadsRuns
from rmt_rl.config import SEED_LIMIT
from rmt_rl.flags import parse
from rmt_rl.terminal import say

if TYPE_CHECKING:
    from rmt_rl.analysis.aggregate import Group


class Report(ReadsRuns):
    """Write one page that needs no network, with an episode that the first run of each group plays."""

    runs: Positional[tuple[str, ...]] = Field((), description=RUNS)
    out: Path = Field(Path("report.html"), description="the page")
    play: bool = Field(True, description="play episodes; without, only the runs' files are read")
    seed: int = Field(1000, ge=0, lt=SEED_LIMIT, description="seed of the first environment that is played")
    steps: int = Field(300, ge=1, description="steps of an episode that are shown, at most")
    at: UseAppendAction[tuple[str, ...]] = Field(
        (), description="an env option of the played episodes: corridor_length=200; give it again for others"
    )
    checkpoint: Literal["last", "best"] = Field("last", description="which of the runs' checkpoints")


def report_runs(arguments: Arguments) -> int:
    """Write the page and print its path."""
    given = parse(Report, arguments, "rmt-rl report", __doc__ or "")
    given.import_modules()
    from rich.console import Console
    from rich.progress import track

    from rmt_rl.acting.evaluate import single_values
    from rmt_rl.analysis.report.page import write_report
    from rmt_rl.analysis.report.player import PlayerOptions
    from rmt_rl.runs.find import find_run

    options = PlayerOptions(given.checkpoint, given.seed, given.steps, single_values(given.at, "--at"))
    console = Console(stderr=True)

    def watched(groups: Sequence[Group]) -> Iterable[Group]:
        shown = console.is_interactive
        return track(groups, "episodes", console=console, transient=True) if shown else groups

    folders = [find_run(run).folder for run in given.runs]
    say(write_report(folders, given.out, options if given.play else None, watched))
    return 0


COMMAND = report_runs
