"""The index of a data set's episodes: a file beside the data, which spares opening every episode at the start of a run.

The file `rmt_rl_index` holds a line of JSON, then the number of steps of every episode as little-endian int64. An index
counts only while the data's file has the size and the time of change that the index names, the number of episodes is
the metadata's, and the lengths of some episodes agree with the data; otherwise the index is made again. A received
index is input as the data are: a length that an episode doesn't have is an error when the episode is read, and the
other numbers are bounded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.data.received import inside
from rmt_rl.data.returns import NotedReturns
from rmt_rl.data.root import data_root
from rmt_rl.data.storage import DATA_FILE, UNKNOWN, read_length
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.reading import check_regular, parse_json

Ints: TypeAlias = npt.NDArray[np.int64]
INDEX_FILE = "rmt_rl_index"
LONGEST_FAULT = 10_000  # characters
_NUMBER = np.dtype("<i8")
_HEADER_LIMIT = 64 << 20  # bytes
_COMPARED = 8  # episodes whose lengths are compared with the data
_SETTLED = 2.0  # seconds; a file changed within them may change again without another time of change


class Stamp(NamedTuple):
    """The size of a file, and the time of its last change."""

    size: int  # bytes
    modified: int  # nanoseconds


class Screening(Frozen):
    """The result of a search for odd episodes."""

    odd: tuple[int, ...] = Field(description="numbers of the odd episodes")
    fault: str = Field("", max_length=LONGEST_FAULT, description="the fault of the first odd episode")
    returns: NotedReturns  # of the other episodes


class _Header(Frozen):
    """The first line of the file."""

    format: Literal[1]
    size: int
    modified: int
    screenings: dict[str, Screening] = Field(max_length=100)


@dataclass
class EpisodeIndex:
    """The lengths of a data set's episodes, and the results of searches for odd episodes.

    Attributes:
        lengths: steps of every episode, int64 (N,); `UNKNOWN` if the data don't tell.
        stamp: the data's file when the lengths were read; None if the storage isn't Minari's HDF5.
        screenings: the results of searches, by `screening_key`.
        is_saved: the index's file holds all this.
    """

    lengths: Ints
    stamp: Stamp | None = None
    screenings: dict[str, Screening] = field(default_factory=dict)
    is_saved: bool = False

    def add(self, key: str, found: Screening) -> None:
        """Take note of what a search found."""
        self.screenings[key] = found
        self.is_saved = False


def screening_key(*facts: str) -> str:
    """Return the key of the searches that depend on these facts, such as the depth of the search and the spaces."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.encode() + b"\0")
    return digest.hexdigest()


def stamp_of(folder: Path) -> Stamp:
    """Return the stamp of the HDF5 file in a data set's folder.

    Raises:
        OSError: it is missing.
    """
    status = (folder / DATA_FILE).stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def load_index(folder: Path, episodes: int, file: h5py.File) -> EpisodeIndex | None:
    """Return the index that a data set's folder holds; None if there is none that counts.

    Args:
        folder: the folder of the HDF5 file.
        episodes: number of episodes by the metadata.
        file: the HDF5 file, open.
    """
    path = folder / INDEX_FILE
    try:
        check_regular(path, _HEADER_LIMIT + episodes * _NUMBER.itemsize)
        line, _, numbers = path.read_bytes().partition(b"\n")
        header = validated(_Header, parse_json(line))
        lengths = np.frombuffer(numbers, _NUMBER).astype(np.int64)
    except (OSError, UsageError, ValueError, TypeError):  # missing, unreadable or no index
        return None
    stamp = Stamp(header.size, header.modified)
    index = EpisodeIndex(lengths, stamp, dict(header.screenings), is_saved=True)
    counts = stamp == stamp_of(folder) and len(lengths) == episodes and _fits(index, file)
    return index if counts else None


def _fits(index: EpisodeIndex, file: h5py.File) -> bool:
    """Return True if the lengths of some episodes agree with the data, and the screenings with the lengths."""
    episodes = len(index.lengths)
    with_steps = set(np.flatnonzero(index.lengths > 0).tolist()) if index.screenings else set()
    for screening in index.screenings.values():
        others = with_steps.difference(screening.odd)
        if len(others) + len(screening.odd) != len(with_steps) or screening.returns.episodes != len(others):
            return False
    chosen = np.linspace(0, episodes - 1, min(_COMPARED, episodes)).astype(int).tolist()
    for number in chosen:
        name = f"episode_{number}"
        if name not in file or read_length(inside(file, name).attrs) != index.lengths[number]:
            return False
    return True


def save_index(folder: Path, index: EpisodeIndex) -> None:
    """Write an index beside the data, unless the data were changed since, or just now.

    A folder that can't be written to, or that lies outside of the folder of all data sets, is left as it is.
    """
    with suppress(OSError, UsageError):
        is_inside = folder.resolve().is_relative_to(data_root().resolve())
        unsettled = time.time() - (folder / DATA_FILE).stat().st_mtime < _SETTLED
        if is_inside and not unsettled and index.stamp == stamp_of(folder):
            write_index(folder, index)


def write_index(folder: Path, index: EpisodeIndex) -> None:
    """Write an index of data that nobody else changes.

    Raises:
        UsageError: it can't be written.
    """
    if index.stamp is None:
        return
    header = _Header(
        format=1,
        size=index.stamp.size,
        modified=index.stamp.modified,
        screenings=index.screenings,
    )
    line = header.model_dump_json().encode()
    numbers = index.lengths.astype(_NUMBER).tobytes()
    write_atomically(folder / INDEX_FILE, line + b"\n" + numbers)
    index.is_saved = True


def faults_of_lengths(lengths: Ints) -> dict[int, str]:
    """Return the fault of each episode without a step, or whose number of steps isn't known."""
    faults = {}
    for number in np.flatnonzero(lengths < 1).tolist():
        steps = int(lengths[number])
        shown = None if steps == UNKNOWN else steps
        faults[number] = "it has no step" if steps == 0 else f"its number of steps is {shown}"
    return faults


def index_of(lengths: Sequence[int], stamp: Stamp | None) -> EpisodeIndex:
    """Return a new index."""
    return EpisodeIndex(np.array(lengths, np.int64), stamp)
