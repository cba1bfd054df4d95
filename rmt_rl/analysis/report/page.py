"""The page as a whole: one file that holds its data, its style and plotly.js, and needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from rmt_rl.analysis.aggregate import (
    INTERVALS_OVER,
    Group,
    compared_score,
    evaluation_cells,
    group_runs,
    read_groups,
    varied_option,
)
from rmt_rl.analysis.panels import CURVES, EvaluationPanel
from rmt_rl.analysis.report.charts import learning_figures, metrics_of, score_figure
from rmt_rl.analysis.report.player import PlayerOptions, check_options, player
from rmt_rl.analysis.report.tables import differences_table, runs_table, scores_table, shared_options, text
from rmt_rl.analysis.run_records import RunRecord
from rmt_rl.errors import UsageError
from rmt_rl.files import check_writable, write_atomically
from rmt_rl.plugins import import_extra
from rmt_rl.urls import check_no_url

EXTRA = "report"
HOME = "rmt_rl.analysis.report"
Json = dict[str, Any]
Watched = Callable[[Sequence[Group]], Iterable[Group]]


class _Task(NamedTuple):
    """The groups of one environment, with labels that tell them apart from one another."""

    env: str
    groups: list[Group]


def write_report(
    runs: Sequence[Path],
    out: Path,
    options: PlayerOptions | None,
    watched: Watched = iter,
) -> Path:
    """Write the page of some runs, and return its path. The file is replaced as a whole.

    Args:
        runs: folders of training runs.
        out: the file, .html.
        options: of the episodes that are played; None plays none.
        watched: passes on the groups whose episodes are played, and may show progress.

    Raises:
        UsageError: a folder holds no run or is damaged, `out` can't be written, plotly isn't installed, or no
            environment has an option that is given.
    """
    check_no_url(out, "name a local file by --out")
    if out.suffix != ".html":
        raise UsageError(f"out={str(out)!r}: the name must end in .html")
    check_writable(out.parent, "name another file by --out")
    import_extra("plotly", EXTRA, "rmt-rl report")
    tasks = _tasks(read_groups(runs))
    if options is not None:
        check_options([task.env for task in tasks], options)
    players, notes = _players(tasks, options, watched)
    page = _page(tasks, players, notes)
    write_atomically(out, page.encode("utf-8", "replace"))
    return out


def _tasks(groups: Iterable[Group]) -> list[_Task]:
    """Return the groups by environment."""
    runs: dict[str, list[RunRecord]] = {}
    for group in groups:
        for run in group.runs:
            runs.setdefault(str(run.settings.get("env")), []).append(run)
    return [_Task(env, group_runs(of_env)) for env, of_env in runs.items()]


def _players(tasks: Sequence[_Task], options: PlayerOptions | None, watched: Watched) -> tuple[list[Json], list[str]]:
    """Return an episode of the first run of each group, and the reasons for which there is none."""
    players: list[Json] = []
    notes: list[str] = []
    if options is None:
        return players, notes
    groups = [group for task in tasks for group in task.groups]
    for group in watched(groups):
        run = group.runs[0]
        label = f"{run.settings.get('env')}: {group.label}, seed {run.seed}"
        try:
            players.append(player(run, label, options))
        except UsageError as error:
            notes.append(f"{run.path}: {error}")
            warnings.warn(f"no episode of {run.path} is in the report: {error}", UserWarning, stacklevel=3)
    return players, notes


def _page(tasks: Sequence[_Task], players: Sequence[Json], notes: Sequence[str]) -> str:
    from plotly.offline import get_plotlyjs

    script = _file("page.js")
    plotly = re.sub("</(script)", r"<\\/\1", get_plotlyjs(), flags=re.IGNORECASE)
    charts: Json = {}
    parts = {
        "title": text(_title(tasks)),
        "version": text(version("rmt-rl")),
        "runs": runs_table([group for task in tasks for group in task.groups]),
        "tasks": "".join(_results(task, index, charts) for index, task in enumerate(tasks)),
        "options": "".join(map(_options, tasks)),
        "notes": "".join(f"<p class='note'>{text(note)}</p>" for note in notes),
        "players": "" if players else "hidden",
        "none": "hidden" if players or notes else "",
        "style": _file("page.css"),
        "script": script,
        "plotly": plotly,
        "hashes": " ".join(_hash(code) for code in (plotly, script)),
        "data": _inside_script({"charts": charts, "players": players}),
    }
    return Template(_file("page.html")).substitute(parts)


def _file(name: str) -> str:
    return files(HOME).joinpath(name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    """Return the source of a script for the page's Content-Security-Policy: no other script is run."""
    digest = hashlib.sha256(code.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _inside_script(values: Json) -> str:
    """Return JSON that can't end the script element around it."""
    escapes: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    written = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return written.translate(str.maketrans(escapes))


def _title(tasks: Sequence[_Task]) -> str:
    agents = [str(group.runs[0].settings.get("agent")) for task in tasks for group in task.groups]
    envs = [task.env for task in tasks]
    return f"{', '.join(dict.fromkeys(agents))} on {', '.join(envs)}"


def _options(task: _Task) -> str:
    """Return the options of an environment's groups."""
    return (
        f"<h3>{text(task.env)}</h3>{differences_table(task.groups)}"
        f"<details><summary>Options that all of these groups share</summary>{shared_options(task.groups)}</details>"
    )


def _results(task: _Task, index: int, charts: Json) -> str:
    """Return the section of an environment, and put its charts beside those of others."""
    parts = [f"<section><h2>{text(task.env)}</h2>"]
    parts.append(_learning(task.groups, f"learning-{index}", charts))
    parts.append(_scores(task.groups, f"scores-{index}", charts))
    parts.append("</section>")
    return "".join(parts)


def _learning(groups: Sequence[Group], name: str, charts: Json) -> str:
    metrics = metrics_of(groups)
    if not metrics:
        return "<p class='note'>These runs logged no metrics.</p>"
    choices = []
    for metric in metrics:
        title = CURVES.get(metric, metric)
        choices.append({"name": title, "figures": learning_figures(groups, metric)})
    charts[name] = choices
    listed = "".join(f"<option>{text(choice['name'])}</option>" for choice in choices)
    return (
        "<div class='heading'><h3>During training</h3>"
        f"<label>metric <select data-chart='{name}'>{listed}</select></label></div>"
        f"<div class='charts' id='{name}'></div>"
    )


def _scores(groups: Sequence[Group], name: str, charts: Json) -> str:
    option = varied_option(groups)
    score = compared_score(groups, option)
    cells = evaluation_cells(groups, option, score)
    if not cells:
        remedy = "evaluate them with <code>rmt-rl evaluate RUN --vary ...</code>"
        return f"<h3>After training</h3><p class='note'>None of these runs was evaluated; {remedy}.</p>"
    drawn = ""
    if option is not None:
        charts[name] = [{"name": score, "figures": [score_figure(EvaluationPanel(option, score, cells))]}]
        drawn = f"<div class='charts' id='{name}'></div>"
    legend = f"<p class='legend'>{text(INTERVALS_OVER)}</p>"
    return f"<h3>After training</h3>{drawn}{scores_table(cells, option, score)}{legend}"
