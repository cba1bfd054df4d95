"""Draw learning curves, and success over what was varied, from the files of runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import RUNS, Arguments
from rmt_rl.config import Frozen
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class Plot(Frozen):
    """Draw learning curves, and success over what was varied; mean and 95% interval over seeds."""

    runs: Positional[tuple[str, ...]] = Field((), description=RUNS)
    out: Path = Field(Path("curves.png"), description="the picture, .png or .svg")


def plot_runs(arguments: Arguments) -> int:
    """Draw the picture, print a table of the evaluations and the picture's path."""
    given = parse(Plot, arguments, "rmt-rl plot", __doc__ or "")
    from rmt_rl.analysis.aggregate import read_groups
    from rmt_rl.analysis.comparison import LEGEND, comparison_of_groups
    from rmt_rl.analysis.plot import PANELS, plot_groups
    from rmt_rl.runs.find import find_run

    groups = read_groups([find_run(run).folder for run in given.runs])
    plot_groups(groups, given.out, PANELS)
    if any(run.evaluations for group in groups for run in group.runs):
        say(comparison_of_groups(groups))
        say(LEGEND)
    say(given.out)
    return 0


COMMAND = plot_runs
