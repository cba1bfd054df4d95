"""Layouts of files of others: which columns hold observations, actions and so on, and where episodes end.

A role is the place of a column in an episode: `observations`, or `observations.image` for a part of a Dict space.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rmt_rl.data.columns import Column, open_columns
from rmt_rl.data.trajectory import Array
from rmt_rl.errors import UsageError, nearest

VALUES = ("observations", "next_observations", "actions")  # which may have parts
FLAGS = ("terminations", "truncations")
ROLES = (*VALUES, "rewards", *FLAGS, "episodes")
REQUIRED = ("observations", "actions", "rewards")
_CHUNK = 1 << 16  # rows of flags that are read at once


class RawEpisode(NamedTuple):
    """An episode of T steps as a file holds it.

    Attributes:
        place: its file and rows, for error messages.
        observations: arrays (T + 1, ...); nested dicts by the parts of roles.
        actions: arrays (T, ...), likewise.
        rewards: (T, ...).
        terminated: the environment ended the episode. Otherwise it was cut.
    """

    place: str
    observations: Any
    actions: Any
    rewards: Array
    terminated: bool


@dataclass(frozen=True)
class Layout:
    """The columns of files in which each row is one step.

    Attributes:
        columns: keys of columns by role. `observations`, `actions` and `rewards` are needed; `terminations` and
            `truncations` are flags of the last steps of episodes, `episodes` numbers that increase from episode to
            episode. Without the three, a file is one episode.
        optional: roles whose columns files may lack.
        of_last_action: a row holds the action and the reward that led to its observation, so the first row has none.
            A file is one episode then.
        cut_at_limit: files without `truncations` are cut at the environment's time limit.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    of_last_action: bool = False
    cut_at_limit: bool = False

    def mapped(self, columns: Mapping[str, str]) -> Layout:
        """Return the layout with other columns for some roles, which files must have.

        Raises:
            UsageError: a role is unknown.
        """
        for role, key in columns.items():
            base, dot, _ = role.partition(".")
            if base not in ROLES or (dot and base not in VALUES):
                known = ", ".join(ROLES)
                raise UsageError(
                    f"--map {role}={key}: unknown role {role!r} (known: {known}{nearest(base, ROLES)}; parts of Dict "
                    f"spaces: {VALUES[0]}.KEY)"
                )
        replaced = {_base(role) for role in columns}
        kept = {role: key for role, key in self.columns.items() if _base(role) not in replaced}
        return replace(self, columns={**kept, **columns}, optional=self.optional - replaced)

    def check(self) -> None:
        """Raise a UsageError if a required role has no column."""
        given = {_base(role) for role in self.columns}
        for role in REQUIRED:
            if role not in given:
                raise UsageError(f"there is no column for {role}; name it by --map {role}=KEY")

    def episodes(self, file: Path, limit: int | None = None) -> Generator[RawEpisode, None, None]:
        """Yield the episodes of a file, reading one at a time from HDF5; columns of npz files are read whole.

        Args:
            file: an npz or HDF5 file.
            limit: the environment's time limit in steps, if it has one.

        Raises:
            UsageError: the file can't be read, or its columns don't fit together.
        """
        with open_columns(file) as columns:
            found = {
                role: columns.column(key)
                for role, key in self.columns.items()
                if role not in self.optional or key in columns.keys
            }
            steps = _Steps(file, found, self.of_last_action)
            cut = limit if self.cut_at_limit and "truncations" not in found else None
            for start, stop in _divided(steps.spans(), cut):
                yield steps.episode(start, stop)


class _Steps:
    """The steps of a file, by their rows in the column of actions."""

    def __init__(self, file: Path, columns: Mapping[str, Column], of_last_action: bool) -> None:
        self.file, self.columns, self.of_last_action = file, columns, of_last_action
        actions = self.of("actions")[0]
        self.rows = len(actions)
        self.first = 1 if of_last_action else 0
        if self.rows <= self.first:
            raise UsageError(f"{file} has no step; leave it out")
        extra = not of_last_action and len(self.of("observations")[0]) == self.rows + 1
        self.has_last_observation = extra
        for role, column in columns.items():
            wanted = self.rows + (extra and _base(role) == "observations")
            if len(column) != wanted:
                raise UsageError(
                    f"{column.name} has {len(column)} rows, but {actions.name} {self.rows}; give one row a step (of "
                    "observations one more, if the last one is there)"
                )

    def of(self, base: str) -> list[Column]:
        """Return the columns of a role and its parts."""
        return [column for role, column in self.columns.items() if _base(role) == base]

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield first row and end of each episode, reading the flags a chunk at a time."""
        start = self.first
        for begin in range(self.first, self.rows, _CHUNK):
            stop = min(begin + _CHUNK, self.rows)
            for row in np.flatnonzero(self._ends(begin, stop)).tolist():
                end = begin + row + 1
                yield start, end
                start = end
        if start < self.rows:
            yield start, self.rows

    def _ends(self, begin: int, stop: int) -> Array:
        """Return which of the rows from `begin` to `stop` are the last of an episode, bool."""
        ends = np.zeros(stop - begin, np.bool_)
        for flag in FLAGS:
            for column in self.of(flag):
                ends |= _flags(column, begin, stop)
        for column in self.of("episodes"):
            numbers = _plain(column, begin, min(stop + 1, self.rows))
            steps = np.diff(numbers)
            if (steps < 0).any():
                row = int(np.flatnonzero(steps < 0)[0])
                raise UsageError(
                    f"{column.name} falls from {numbers[row]} to {numbers[row + 1]} at row {begin + row + 1}; sort the "
                    "rows by episode and step"
                )
            ends[: len(steps)] |= steps > 0
        return ends

    def episode(self, start: int, stop: int) -> RawEpisode:
        """Return the episode of these rows."""
        whole = start == self.first and stop == self.rows
        place = str(self.file) if whole else f"{self.file}, rows {start} to {stop - 1}"
        if not whole and (self.of_last_action or self.has_last_observation):
            raise UsageError(
                f"{place}: an episode ends inside of the file, but a file with an observation more than steps is one "
                "episode; cut it into several files"
            )
        terminated = any(bool(_flags(column, stop - 1, stop)[0]) for column in self.of("terminations"))
        return RawEpisode(
            place=place,
            observations=self._nested("observations", start, stop, with_last=True),
            actions=self._nested("actions", start, stop),
            rewards=self.of("rewards")[0][start:stop],
            terminated=terminated,
        )

    def _nested(self, base: str, start: int, stop: int, with_last: bool = False) -> Any:
        """Return the rows of a role: an array, or dicts of arrays by the role's parts."""
        nested: dict[str, Any] = {}
        for role, column in self.columns.items():
            if _base(role) != base:
                continue
            rows = self._observed(role, column, start, stop) if with_last else column[start:stop]
            *outer, last = role.split(".")
            place = nested
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = rows
        return nested[base]

    def _observed(self, role: str, column: Column, start: int, stop: int) -> Array:
        """Return the rows of an observation and the one that follows, which is the last one again if there is none."""
        if self.of_last_action:
            return column[start - 1 : stop]
        if self.has_last_observation:
            return column[start : stop + 1]
        following = self.columns.get(f"next_{role}", column)
        return np.concatenate([column[start:stop], following[stop - 1 : stop]])


def _base(role: str) -> str:
    return role.partition(".")[0]


def _divided(spans: Iterable[tuple[int, int]], limit: int | None) -> Iterator[tuple[int, int]]:
    """Yield spans of rows, cut into parts of at most `limit` rows."""
    for start, stop in spans:
        size = limit or stop - start
        for begin in range(start, stop, size):
            yield begin, min(begin + size, stop)


def _plain(column: Column, start: int, stop: int) -> Array:
    """Return rows of one number each, (N,)."""
    rows = column[start:stop]
    if rows.size != len(rows):
        raise UsageError(f"{column.name} has rows of shape {rows.shape[1:]}; give one number a step")
    return rows.reshape(len(rows))


def _flags(column: Column, start: int, stop: int) -> Array:
    """Return rows of flags, bool (N,)."""
    rows = _plain(column, start, stop)
    odd = (rows != 0) & (rows != 1)
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        raise UsageError(f"{column.name} holds {rows[row]} at row {start + row}; give 0 or 1, True or False")
    return rows.astype(np.bool_)
