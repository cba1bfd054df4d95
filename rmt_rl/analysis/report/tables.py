"""Tables of the page: runs, scores, and options in which configs differ. Texts from files have no markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from rmt_rl.analysis.aggregate import Cells, Estimate, Group, differing_names
from rmt_rl.analysis.comparison import SCORE_NAMES, value_text, values_of
from rmt_rl.terminal import plain

LONGEST = 300  # characters of a cell


def text(value: object) -> str:
    """Return a value as text of the page."""
    words = plain(str(value))
    short = words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
    return escape(short)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """Return a table of cells that are HTML already; its first column names the rows.

    Args:
        head: names of the columns.
        rows: cells.
        numbers: all columns but the first are aligned right.
    """
    lines = ["<th scope='col'>" + "</th><th scope='col'>".join(head) + "</th>"]
    for name, *cells in rows:
        joined = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f"<th scope='row'>{name}</th>{joined}")
    first, *others = (f"<tr>{line}</tr>" for line in lines)
    kind = " class='numbers'" if numbers else ""
    return f"<div class='scroll'><table{kind}><thead>{first}</thead><tbody>{''.join(others)}</tbody></table></div>"


def runs_table(groups: Sequence[Group]) -> str:
    """Return the table of all runs."""
    rows = []
    for group in groups:
        for run in group.runs:
            env = text(run.settings.get("env"))
            last = max((max(curve) for curve in run.metrics.values()), default=None)
            trained = "-" if last is None else f"{last:,} {text(group.unit)}s"
            evaluated = text(run.checkpoint) if run.evaluations else "not evaluated"
            rows.append([text(group.label), env, str(run.seed), trained, evaluated, f"<code>{text(run.path)}</code>"])
    head = ["group", "environment", "seed", "trained", "evaluated checkpoint", "folder"]
    return f"<div class='plain'>{html_table(head, rows, numbers=False)}</div>"


def scores_table(cells: Cells, option: str | None, score: str) -> str:
    """Return the table of scores: groups by values of the varied option."""
    values = values_of(cells)
    title = SCORE_NAMES[score] + (f" at {text(option)}" if option else "")
    columns = [text(value_text(value)) for value in values] if option else ["trained task"]
    rows = []
    for label, row in cells.items():
        seeds = max(estimate.count for estimate in row.values())
        shown = [_score(row.get(value), seeds) for value in values]
        rows.append([text(label), *shown, str(seeds)])
    return html_table([title, *columns, "seeds"], rows)


def _score(estimate: Estimate | None, seeds: int) -> str:
    if estimate is None:
        return ""
    cell = f"{estimate.mean:.2f}"
    if estimate.interval:
        low, high = estimate.interval
        cell += f" <small>{low:.2f} to {high:.2f}</small>"
    return cell if estimate.count == seeds else f"{cell} <small>n = {estimate.count}</small>"


def differences_table(groups: Sequence[Group]) -> str:
    """Return the table of the options in which groups, the columns, differ; marked values differ from the first's."""
    if len(groups) == 1:
        return "<p>There is one group: its runs have the same options, but for their seeds.</p>"
    settings = [group.runs[0].settings for group in groups]
    names = sorted(differing_names(settings))
    rows = []
    for name in names:
        first = settings[0].get(name)
        cells = []
        for own in settings:
            value = own.get(name)
            shown = "<span class='unset'>unset</span>" if value is None else text(value)
            cells.append(f"<mark>{shown}</mark>" if value != first else shown)
        rows.append([f"<code>{text(name)}</code>", *cells])
    return html_table(["option", *[text(group.label) for group in groups]], rows, numbers=False)


def shared_options(groups: Sequence[Group]) -> str:
    """Return the table of the options that all groups share."""
    settings: list[Mapping[str, object]] = [group.runs[0].settings for group in groups]
    names = settings[0].keys() - differing_names(settings)
    rows = [[f"<code>{text(name)}</code>", text(settings[0][name])] for name in sorted(names)]
    return html_table(["option", "value"], rows, numbers=False)
