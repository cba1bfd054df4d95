"""An `Inspection` as tables for the terminal.

Steps and segments are counted from 1, as in the picture. Of a state with many leaves the one is shown whose values are
furthest apart after all filler segments: the memory is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rmt_rl.analysis.inspection.inspect_run import Inspection
from rmt_rl.analysis.inspection.retention import Retained
from rmt_rl.analysis.inspection.writing import Written
from rmt_rl.analysis.markdown import markdown_table

CHANGE = "change of state"
STRONGEST = "strongest step"
OLD_MEMORY = "attention to old memory"
TO_STEPS = "attention to steps"
MOST_ATTENDED = "most attended step"
FILLERS = "filler segments"
MARGIN = "margin (nats)"
RIGHT = "right actions (share)"

Row = dict[str, str]
"""Cells by the heads of their columns."""


def inspection_tables(inspection: Inspection) -> str:
    """Return the main numbers as two Markdown tables, each below an explanation of its columns."""
    lines = [
        title(inspection),
        "",
        *_writing_legend(inspection),
        "",
        _table(_writing_rows(inspection)),
        "",
        *_retention_legend(inspection),
        "",
        _table(_retention_rows(inspection)),
    ]
    return "\n".join(lines)


def title(inspection: Inspection) -> str:
    """Return the run, its number of parameters and the size of its state in one line."""
    run = f"{inspection.env} {inspection.agent}, {inspection.checkpoint}"
    parameters, state_bytes = inspection.sizes
    return f"{run}: {parameters:,} parameters, {state_bytes:,} bytes of state for each environment"


def leaves_apart(inspection: Inspection) -> list[str]:
    """Return the names of the whole state and of its leaves, the furthest apart after all filler segments first."""
    last = inspection.retained[-1]
    whole, *leaves = last.norm
    grouped = inspection.grouped_by is not None
    leaves.sort(key=lambda leaf: _distance(last, leaf, grouped), reverse=True)
    return [whole, *leaves]


def _table(rows: Sequence[Row]) -> str:
    cells = [list(row.values()) for row in rows]
    return markdown_table(list(rows[0]), cells, left=0, padded=True)


# Writing


def _writing_legend(inspection: Inspection) -> Iterator[str]:
    yield "Writing: the effect of each segment of an episode on the state, mean over episodes"
    yield f"- {CHANGE}: distance of the states before and after, over their norm (0 same, 1.41 unrelated, 2 opposite)"
    yield f"- {STRONGEST}: the step of the segment on which the new state depends most, and its share of the influence"
    if any(written.attention for written in inspection.written):
        yield "- attention, most attended: shares of the write tokens' attention, mean over layers"


def _writing_rows(inspection: Inspection) -> list[Row]:
    """Return a row for each segment, with a column for old memory where any is attended to."""
    layers = [layer for written in inspection.written for layer in written.attention]
    attends_to_old = any(layer.cached or layer.read for layer in layers)
    return [_writing_row(written, attends_to_old) for written in inspection.written]


def _writing_row(written: Written, attends_to_old: bool) -> Row:
    change, *_ = written.change.values()  # of the whole state
    row = {
        "segment": str(written.segment),
        "episodes": str(written.lanes),
        CHANGE: f"{change:.3f}",
        STRONGEST: _largest(written.influence),
    }
    if attends_to_old:
        old = [layer.cached + layer.read for layer in written.attention]
        row[OLD_MEMORY] = f"{np.mean(old):.0%}"
    if written.attention:
        steps = np.mean([layer.steps for layer in written.attention], 0)
        row[TO_STEPS] = f"{steps.sum():.0%}"
        row[MOST_ATTENDED] = _largest(steps.tolist())
    return row


def _largest(shares: Sequence[float]) -> str:
    """Return the step with the largest share, e.g. `3 (27%)`."""
    step = int(np.argmax(shares))
    return f"{step + 1} ({shares[step]:.0%})"


# Retention


def _retention_legend(inspection: Inspection) -> Iterator[str]:
    grouped_by, leaf = inspection.grouped_by, _shown_leaf(inspection)
    yield "Retention: memories of different episodes pass through the same filler segments, cut from other episodes"
    yield "(distances are root mean squares over memories, divided by the norm of a state)"
    if grouped_by is None:
        yield "- distance: of states from their mean"
    else:
        yield f"- groups: memories that have to remember the same {grouped_by}"
        yield "- distance between groups: of group means from the mean of all states"
        yield "- distance within groups: of states from the mean of their group"
    if leaf is not None:
        yield f"- {leaf}: distance for this leaf, the one whose values are furthest apart after all filler segments"
    if grouped_by is not None:
        yield "- margin: log-likelihood of an action for memories that should lead to it, minus that for all others"
        yield "- right actions: share of the memories that should lead to an action and do"


def _shown_leaf(inspection: Inspection) -> str | None:
    """Return the leaf whose values are furthest apart; None if the state has but one."""
    _, *leaves = leaves_apart(inspection)
    return leaves[0] if leaves else None


def _retention_rows(inspection: Inspection) -> list[Row]:
    grouped = inspection.grouped_by is not None
    leaf = _shown_leaf(inspection)
    return [_retention_row(retained, grouped, leaf) for retained in inspection.retained]


def _retention_row(retained: Retained, grouped: bool, leaf: str | None) -> Row:
    whole, *_ = retained.norm
    between, within = retained.apart(whole)
    row = {FILLERS: f"{retained.fillers:,}"}
    if grouped:
        row["distance between groups"] = f"{between:.2g}"
        row["distance within groups"] = f"{within:.2g}"
    else:
        row["distance"] = f"{within:.2g}"
    if leaf is not None:
        row[leaf] = f"{_distance(retained, leaf, grouped):.2g}"
    if retained.margin is not None and retained.right is not None:
        margin = round(retained.margin, 2) + 0  # no -0.00
        row[MARGIN] = f"{margin:.2f}"
        row[RIGHT] = f"{retained.right:.2f}"
    return row


def _distance(retained: Retained, leaf: str, grouped: bool) -> float:
    """Return a leaf's distance over its norm between groups; of a single group, between memories."""
    between, within = retained.apart(leaf)
    return between if grouped else within
