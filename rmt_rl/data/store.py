"""Minari data sets, read from disk on demand, and only the steps that are needed."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import minari
import numpy as np
import numpy.typing as npt
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.storage import get_dataset_path

from rmt_rl.data.segment import Span
from rmt_rl.data.storage import OUTCOMES, STEPS, read_columns, reads_parts
from rmt_rl.data.trajectory import Array, Trajectory, conform
from rmt_rl.errors import UsageError, nearest
from rmt_rl.files import check_regular, parse_json, read_text
from rmt_rl.task import check_same_spaces
from rmt_rl.trees import leaves

RETURNS_KEY = "rmt_rl_returns"  # metadata of ours, which spare reading every episode for its rewards
_BYTES_OF_EPISODE = 1024  # of Python objects around its arrays (measured)
_BYTES_OF_ARRAY = 256  # of Python objects around it (measured)
_SMALL_EPISODE = 1 << 20  # bytes; reading such an episode takes about as long as finding a few of its steps

Bools: TypeAlias = npt.NDArray[np.bool_]
Lengths: TypeAlias = npt.NDArray[np.int64]


class EpisodeStore:
    """The episodes of one or several Minari data sets, read from disk on demand.

    An episode is read whole if it is small, or if all data fit into the cache together. Of other episodes, only the
    requested steps are read (from Minari's HDF5 format; Minari's other formats give only whole episodes).

    Args:
        dataset_id: one id, or several of the same observation and action spaces, joined in this order.
        cache_bytes: memory for what was read; the least recently used episodes are dropped first.
        annotate: returns an episode with labels computed from its own data, such as its hindsight classes. It needs
            whole episodes, so all episodes are then read whole.

    Raises:
        UsageError: a data set is missing, empty, damaged, or has other spaces than the first one.
    """

    def __init__(
        self,
        dataset_id: str | Sequence[str],
        cache_bytes: int = 1 << 30,
        annotate: Callable[[Trajectory], Trajectory] | None = None,
    ) -> None:
        self.ids = (dataset_id,) if isinstance(dataset_id, str) else tuple(dataset_id)
        if not self.ids:
            raise UsageError("dataset: no id was given; name at least one Minari data set")
        self._datasets = [open_dataset(each) for each in self.ids]
        first, *others = self._datasets
        for other in others:
            _check_alike(first, other)
        self.observation_space: Space[Any] = first.observation_space
        self.action_space: Space[Any] = first.action_space
        self.env_spec: EnvSpec | None = first.env_spec
        self._firsts = [0]  # first episode of each data set; then how many there are
        lengths: list[int] = []
        self._seeds: list[int | None] = []
        for dataset in self._datasets:
            for entry in _read_index(dataset):
                lengths.append(entry.steps)
                self._seeds.append(entry.seed)
            self._firsts.append(len(lengths))
        self.lengths: Lengths = np.array(lengths, dtype=np.int64)  # (N,) steps
        self._cache = _Cache(cache_bytes)
        self._annotate = annotate
        # A space that can't be learnt from, or unreadable data, shows here and not mid-run.
        self._reads_whole = self._episodes_to_read_whole(cache_bytes)  # (N,) bool
        self.span(0, 0, 1)

    def _episodes_to_read_whole(self, cache_bytes: int) -> Bools:
        """Return True for the episodes that are always read whole, bool (N,)."""
        bytes_of_step = self._read_part(0, 0, 1).nbytes  # or more: there are two observations in it
        sizes = self.lengths * bytes_of_step
        all_fit = sizes.sum() <= cache_bytes
        storages = [dataset.storage for dataset in self._datasets]
        parts_can_be_read = all(map(reads_parts, storages))
        if all_fit or self._annotate or not parts_can_be_read:
            return np.ones(len(self), np.bool_)
        is_small: Bools = sizes <= _SMALL_EPISODE
        return is_small

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, index: int) -> Trajectory:
        """Return the whole episode of an index, 0 <= index < len(self).

        Raises:
            UsageError: its data are damaged or don't fit the data set's spaces.
        """
        key = _Key(index, is_outline=False)
        return self._cache.get(key, self._read)

    def span(self, index: int, start: int, stop: int) -> Span:
        """Return the steps `start <= step < stop` of an episode, at least one.

        The span's trajectory may hold more than these steps.

        Raises:
            UsageError: their data are damaged or don't fit the data set's spaces.
        """
        key = _Key(index, is_outline=False)
        if self._reads_whole[index] or key in self._cache:
            return Span(self.episode(index), start, stop)
        part = self._read_part(index, start, stop)
        return Span(part, 0, stop - start)

    @property
    def cached_bytes(self) -> int:
        """Bytes of memory that the cache takes up now."""
        return self._cache.bytes

    @property
    def max_return(self) -> float:
        """The largest absolute return-to-go of any step of any episode."""
        return self._returns.largest

    @property
    def best_return(self) -> float:
        """The largest return of any episode."""
        return self._returns.best

    @cached_property
    def _returns(self) -> ReturnSummary:
        """The extremes of the returns of all episodes."""
        summary = ReturnSummary()
        for number in range(len(self._datasets)):
            summary.join(self._dataset_returns(number))
        return summary

    def _dataset_returns(self, number: int) -> ReturnSummary:
        """Return the extremes of one data set, from its metadata; without such metadata, all its rewards are read."""
        dataset = self._datasets[number]
        noted = dataset.storage.metadata.get(RETURNS_KEY)
        if noted and noted["episodes"] == len(dataset):  # else episodes were added since
            return ReturnSummary(noted["episodes"], noted["largest"], noted["best"])
        summary = ReturnSummary()
        first, end = self._firsts[number : number + 2]
        for index in range(first, end):
            summary.add(self._outline(index))
        return summary

    def _read(self, index: int) -> Trajectory:
        """Read a whole episode."""
        length = int(self.lengths[index])
        with self._explained(index):
            columns = self._columns(index, (*STEPS, *OUTCOMES), 0, length)
            trajectory = Trajectory(**columns, seed=self._seeds[index])
            if len(trajectory) != length:
                raise ValueError(f"{len(trajectory)} steps, of {length}")
        return self._annotate(trajectory) if self._annotate else trajectory

    def _outline(self, index: int) -> Trajectory:
        """Return the outline of an episode: all its outcomes, with observations and actions of no size."""
        key = _Key(index, is_outline=True)
        return self._cache.get(key, self._read_outline)

    def _read_outline(self, index: int) -> Trajectory:
        length = int(self.lengths[index])
        no_observations = np.empty((length + 1, 0))
        no_actions = np.empty((length, 0))
        with self._explained(index):
            outcomes = self._columns(index, OUTCOMES, 0, 0)
            return Trajectory(no_observations, no_actions, **outcomes, seed=self._seeds[index])

    def _read_part(self, index: int, start: int, stop: int) -> Trajectory:
        """Read some steps of an episode; the outcomes of the whole episode are checked."""
        outline = self._outline(index)
        outcomes = {}
        for name in OUTCOMES:
            whole = getattr(outline, name)
            outcomes[name] = whole[start:stop]
        later = _sum_from(outline.rewards, stop)
        with self._explained(index, start):
            steps = self._columns(index, STEPS, start, stop)
            return Trajectory(**steps, **outcomes, seed=self._seeds[index], later=later)

    def _columns(self, index: int, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        """Read columns of an episode, and check them against the spaces."""
        dataset, episode = self._source_of(index)
        length = int(self.lengths[index])
        columns = read_columns(dataset.storage, episode, names, start, stop, length)
        spaces_of_steps = {"observations": self.observation_space, "actions": self.action_space}
        for name, space in spaces_of_steps.items():
            if name in columns:
                columns[name] = conform(columns[name], space, name)
        return columns

    def _source_of(self, index: int) -> tuple[minari.MinariDataset, int]:
        """Return the data set that an episode is from, and the episode's number in this data set."""
        number = bisect_right(self._firsts, index) - 1
        return self._datasets[number], index - self._firsts[number]

    def _explained(self, index: int, start: int = 0) -> AbstractContextManager[None]:
        """Name the data set and the episode in errors about damaged files."""
        dataset, episode = self._source_of(index)
        first_step = f" from step {start}" if start else ""
        return _damage_explained(dataset.id, f", episode {episode}{first_step}")


class _Key(NamedTuple):
    """An entry of the cache: an episode, or its outline."""

    episode: int
    is_outline: bool


class _Cache:
    """The episodes and outlines that were used last.

    Attributes:
        bytes: the memory that they take up.
    """

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        self._limit = limit
        self._entries: OrderedDict[_Key, Trajectory] = OrderedDict()

    def __contains__(self, key: _Key) -> bool:
        return key in self._entries

    def get(self, key: _Key, read: Callable[[int], Trajectory]) -> Trajectory:
        """Return an entry; if it is missing, `read(episode)`, and drop the least recently used entries for it."""
        entries = self._entries
        if key in entries:
            entries.move_to_end(key)
            return entries[key]
        trajectory = read(key.episode)
        entries[key] = trajectory
        self.bytes += _cost(trajectory)
        while self.bytes > self._limit:
            _, dropped = entries.popitem(last=False)
            self.bytes -= _cost(dropped)
        return trajectory


def _cost(trajectory: Trajectory) -> int:
    """Return the bytes of memory that a trajectory takes up."""
    steps = (trajectory.observations, trajectory.actions)
    arrays = list(leaves(steps))
    return trajectory.nbytes + _BYTES_OF_EPISODE + _BYTES_OF_ARRAY * len(arrays)


@dataclass
class ReturnSummary:
    """Extremes of the returns of episodes.

    Attributes:
        episodes: number of episodes.
        largest: largest absolute return-to-go of any step.
        best: largest return of an episode.
    """

    episodes: int = 0
    largest: float = 0.0
    best: float = -np.inf

    def add(self, trajectory: Trajectory) -> None:
        """Count a whole episode."""
        returns_to_go = trajectory.returns_to_go
        largest = np.abs(returns_to_go).max()
        whole = returns_to_go[0]
        self.join(ReturnSummary(1, float(largest), float(whole)))

    def join(self, other: ReturnSummary) -> None:
        """Count all episodes of another summary."""
        self.episodes += other.episodes
        self.largest = max(self.largest, other.largest)
        self.best = max(self.best, other.best)


def _sum_from(rewards: Array, step: int) -> float:
    """Return the sum of the rewards from a step on, added from the last to the first as in `returns_to_go`."""
    from_the_end = rewards[: step - 1 : -1]
    sums = np.append(0.0, from_the_end).cumsum()
    return float(sums[-1])


def data_root() -> Path:
    """Return Minari's folder of all data sets; make it if it is missing.

    Raises:
        UsageError: it can't be made.
    """
    try:
        return Path(get_dataset_path()).absolute()
    except OSError as error:
        raise UsageError(
            f"MINARI_DATASETS_PATH is {os.environ.get('MINARI_DATASETS_PATH')!r}, which can't be made "
            f"({error.strerror}); set it to a folder that can be written"
        ) from error


_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, gymnasium.error.Error)


@contextmanager
def _damage_explained(dataset_id: str, place: str = "") -> Iterator[None]:
    """Turn the errors that Minari and HDF5 raise on damaged files into a UsageError."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"data set {dataset_id!r}{place}: {error}") from error
    except ImportError as error:  # its storage format needs another package
        raise UsageError(f"data set {dataset_id!r}{place} can't be read: {error}") from error
    except _DAMAGE as error:
        raise UsageError(
            f"data set {dataset_id!r}{place} is damaged ({error}); remove it with `minari delete {dataset_id}` and "
            "collect or download it again"
        ) from error


def _check_spaces_are_stored(data: Path) -> None:
    """Raise a ValueError unless the metadata hold both spaces: without one, Minari makes the environment they name."""
    metadata = parse_json(read_text(data / METADATA_FILE_NAME))
    for name in ("observation_space", "action_space"):
        if not isinstance(metadata[name], str):
            raise ValueError(f"{name} is no string")


def open_dataset(dataset_id: str) -> minari.MinariDataset:
    """Open a local Minari data set that has episodes.

    Raises:
        UsageError: it is missing, damaged or empty.
    """
    root = data_root()
    if not DATASET_ID_RE.fullmatch(dataset_id):  # which also could lead out of the folder of data sets
        raise UsageError(f"data set id {dataset_id!r} is malformed; give namespace/name-v0")
    data = root / dataset_id / "data"
    if not data.exists():
        similar = nearest(dataset_id, _local_ids(root))
        raise UsageError(
            f"data set {dataset_id!r} is not below {root}{similar}; make it "
            f"with `rmt-rl collect`, or fetch it with `minari download {dataset_id}`"
        )
    with _damage_explained(dataset_id):
        for file in data.iterdir():  # folders are parts of Minari's other formats
            if not file.is_dir():
                check_regular(file)
        _check_spaces_are_stored(data)
        dataset = minari.load_dataset(dataset_id)
    if len(dataset) == 0:
        raise UsageError(f"data set {dataset_id!r} is empty; collect or download it again")
    return dataset


def _check_alike(first: minari.MinariDataset, other: minari.MinariDataset) -> None:
    """Raise a UsageError unless two data sets have the same spaces."""
    name = f"data set {first.id!r}"
    other_name = f"data set {other.id!r}"
    check_same_spaces(name, first, other_name, other, "train on each alone")


class _IndexEntry(NamedTuple):
    """Facts of an episode that are known without reading its data."""

    steps: int
    seed: int | None


def _read_index(dataset: minari.MinariDataset) -> list[_IndexEntry]:
    """Return the index entry of every episode of a data set."""
    with _damage_explained(dataset.id):
        numbers = range(len(dataset))
        entries = []
        for episode in dataset.storage.get_episode_metadata(numbers):
            steps = int(episode["total_steps"])
            entries.append(_IndexEntry(steps, episode.get("seed")))
    return entries


def _local_ids(root: Path) -> list[str]:
    """Return the ids of the data sets below Minari's root; Minari's own list stops at the first unfitting folder."""
    ids = []
    for file in root.glob(f"**/data/{METADATA_FILE_NAME}"):
        folder = file.parents[1].relative_to(root)
        ids.append(folder.as_posix())
    return ids
