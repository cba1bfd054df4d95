"""Minari data sets, read from disk when asked for, and no more of them than is needed."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import minari
import numpy as np
import numpy.typing as npt
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.storage import get_dataset_path

from rmt_rl.data.segment import Span
from rmt_rl.data.storage import OUTCOMES, STEPS, read_columns, reads_parts
from rmt_rl.data.trajectory import Trajectory, conform
from rmt_rl.errors import UsageError, nearest
from rmt_rl.trees import leaves

_OBJECTS = 1024  # bytes of Python objects around an episode, and around each of its arrays 256 (measured)
_SMALL = 1 << 20  # bytes of an episode that are read about as fast as a few of its steps are found
SUMMARY = "rmt_rl_returns"  # metadata of ours that spares reading every episode for its rewards


class EpisodeStore:
    """The episodes of one or several Minari data sets, read from disk when asked for.

    Of an episode that is neither small nor of data that fit into the cache together, only the steps that are asked
    for are read (from Minari's HDF5 format; its others give whole episodes alone).

    Args:
        dataset_id: one id, or several of the same observation and action spaces, taken together in this order.
        cache_bytes: how much of what was read is kept in memory, the most recently used first.
        annotate: adds to each episode what can be told from its own data, such as its hindsight classes. It's given
            whole episodes, which then are always read whole.

    Raises:
        UsageError: a data set is missing, empty, damaged, or of spaces that differ from the first one's.
    """

    def __init__(
        self,
        dataset_id: str | Sequence[str],
        cache_bytes: int = 1 << 30,
        annotate: Callable[[Trajectory], Trajectory] | None = None,
    ) -> None:
        self.ids: tuple[str, ...] = (dataset_id,) if isinstance(dataset_id, str) else tuple(dataset_id)
        if not self.ids:
            raise UsageError("dataset: no id was given; name at least one Minari data set")
        self._datasets = [open_dataset(one) for one in self.ids]
        first = self._datasets[0]
        self.observation_space: Space[Any] = first.observation_space
        self.action_space: Space[Any] = first.action_space
        self.env_spec: EnvSpec | None = first.env_spec
        for other in self._datasets[1:]:
            _check_same_spaces(first, other)
        index = [entry for dataset in self._datasets for entry in _read_index(dataset)]
        self.lengths: npt.NDArray[np.int64] = np.array([length for length, _ in index], dtype=np.int64)  # (N,) steps
        self._seeds = [seed for _, seed in index]
        self._firsts = list(accumulate((len(dataset) for dataset in self._datasets), initial=0))
        self._cache: OrderedDict[_Key, Trajectory] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._annotate = annotate
        self._returns: tuple[float, float] | None = None
        self.cached_bytes = 0  # held now
        # A space that can't be learnt from, or unreadable data, shows here and not mid-run.
        sizes = self.lengths * self._read_part(0, 0, 1).nbytes  # at most: it holds two observations
        self._whole = (sizes <= _SMALL) | (sizes.sum() <= cache_bytes)  # (N,) bool, episodes that are read whole
        if annotate or not all(reads_parts(dataset.storage) for dataset in self._datasets):
            self._whole[:] = True
        self.span(0, 0, 1)

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, index: int) -> Trajectory:
        """The whole episode of this index, 0 <= index < len(self).

        Raises:
            UsageError: its data are damaged or don't fit the data set's spaces.
        """
        return self._cached(_Key(index, whole=True), self._read)

    def span(self, index: int, start: int, stop: int) -> Span:
        """The steps `start <= step < stop` of an episode, at least one; its trajectory may hold more than these.

        Raises:
            UsageError: their data are damaged or don't fit the data set's spaces.
        """
        if self._whole[index] or _Key(index, whole=True) in self._cache:
            return Span(self.episode(index), start, stop)
        return Span(self._read_part(index, start, stop), 0, stop - start)

    @property
    def max_return(self) -> float:
        """The largest absolute return-to-go of any step of any episode."""
        return self._summary()[0]

    @property
    def best_return(self) -> float:
        """The largest return of any episode."""
        return self._summary()[1]

    def _summary(self) -> tuple[float, float]:
        if self._returns is None:
            parts = [self._dataset_returns(number) for number in range(len(self._datasets))]
            self._returns = max(part[0] for part in parts), max(part[1] for part in parts)
        return self._returns

    def _dataset_returns(self, number: int) -> tuple[float, float]:
        """Largest |return-to-go| and largest return; a data set that we didn't write is read through once."""
        dataset = self._datasets[number]
        noted = dataset.storage.metadata.get(SUMMARY)
        if noted and noted["episodes"] == len(dataset):  # else episodes were added since
            return noted["largest"], noted["best"]
        returns = Returns()
        for index in range(self._firsts[number], self._firsts[number + 1]):
            returns.add(self._outline(index))
        return returns.largest, returns.best

    def _cached(self, key: _Key, read: Callable[[int], Trajectory]) -> Trajectory:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        trajectory = read(key.episode)
        self._cache[key] = trajectory
        self.cached_bytes += _cost(trajectory)
        while self.cached_bytes > self._cache_bytes:
            self.cached_bytes -= _cost(self._cache.popitem(last=False)[1])
        return trajectory

    def _read(self, index: int) -> Trajectory:
        length = int(self.lengths[index])
        with self._reading(index):
            columns = self._columns(index, (*STEPS, *OUTCOMES), 0, length)
            trajectory = Trajectory(**columns, seed=self._seeds[index])
            if len(trajectory) != length:
                raise ValueError(f"{len(trajectory)} steps, of {length}")
        return self._annotate(trajectory) if self._annotate else trajectory

    def _outline(self, index: int) -> Trajectory:
        """The whole episode with observations and actions of no size."""
        return self._cached(_Key(index, whole=False), self._read_outline)

    def _read_outline(self, index: int) -> Trajectory:
        length = int(self.lengths[index])
        with self._reading(index):
            columns = self._columns(index, OUTCOMES, 0, 0)
            return Trajectory(np.empty((length + 1, 0)), np.empty((length, 0)), **columns, seed=self._seeds[index])

    def _read_part(self, index: int, start: int, stop: int) -> Trajectory:
        """These steps alone; the outcomes are checked throughout the episode."""
        outline = self._outline(index)
        with self._reading(index, start):
            return Trajectory(
                **self._columns(index, STEPS, start, stop),
                **{name: getattr(outline, name)[start:stop] for name in OUTCOMES},
                seed=self._seeds[index],
                later=float(np.append(0.0, outline.rewards[: stop - 1 : -1]).cumsum()[-1]),  # in this order, as a whole
            )

    def _columns(self, index: int, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        number = self._number(index)
        storage, episode = self._datasets[number].storage, index - self._firsts[number]
        columns = read_columns(storage, episode, names, start, stop, int(self.lengths[index]))
        fitting = {"observations": self.observation_space, "actions": self.action_space}
        return columns | {name: conform(columns[name], fitting[name], name) for name in names if name in fitting}

    def _number(self, index: int) -> int:
        """Of the data set that an episode is from."""
        return bisect_right(self._firsts, index) - 1

    def _reading(self, index: int, start: int = 0) -> AbstractContextManager[None]:
        number = self._number(index)
        place = f", episode {index - self._firsts[number]}" + (f" from step {start}" if start else "")
        return _reading(self._datasets[number].id, place)


class _Key(NamedTuple):
    """What is cached: an episode, or its outline."""

    episode: int
    whole: bool


class Returns:
    """Running extremes of the returns of the episodes added."""

    def __init__(self) -> None:
        self.episodes = 0
        self.largest = 0.0  # |return-to-go|
        self.best = -np.inf

    def add(self, trajectory: Trajectory) -> None:
        self.episodes += 1
        self.largest = max(self.largest, float(np.abs(trajectory.returns_to_go).max()))
        self.best = max(self.best, float(trajectory.returns_to_go[0]))


def data_root() -> Path:
    """Minari's folder of all data sets, which is made when it is missing.

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


@contextmanager
def _reading(dataset_id: str, place: str = "") -> Iterator[None]:
    """Turn whatever Minari and HDF5 raise on damaged files into one clear error."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"data set {dataset_id!r}{place}: {error}") from error
    except ImportError as error:  # of the package that its storage format needs
        raise UsageError(f"data set {dataset_id!r}{place} can't be read: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, gymnasium.error.Error) as error:
        raise UsageError(
            f"data set {dataset_id!r}{place} is damaged ({error}); remove it with `minari delete {dataset_id}` and "
            "collect or download it again"
        ) from error


def open_dataset(dataset_id: str) -> minari.MinariDataset:
    """Open a local Minari data set that has episodes.

    Raises:
        UsageError: it is missing, damaged or empty.
    """
    if not (data_root() / dataset_id / "data").exists():
        raise UsageError(
            f"data set {dataset_id!r} is not below {data_root()}{nearest(dataset_id, _local_ids())}; make it "
            f"with `rmt-rl collect`, or fetch it with `minari download {dataset_id}`"
        )
    with _reading(dataset_id):
        dataset = minari.load_dataset(dataset_id)
    if len(dataset) == 0:
        raise UsageError(f"data set {dataset_id!r} is empty; collect or download it again")
    return dataset


def _read_index(dataset: minari.MinariDataset) -> list[tuple[int, int | None]]:
    """Length and seed of every episode, without reading its data."""
    with _reading(dataset.id):
        entries = dataset.storage.get_episode_metadata(range(len(dataset)))
        return [(int(entry["total_steps"]), entry.get("seed")) for entry in entries]


def _check_same_spaces(first: minari.MinariDataset, other: minari.MinariDataset) -> None:
    for field in ("observation_space", "action_space"):
        if getattr(first, field) != getattr(other, field):
            raise UsageError(
                f"data sets {first.id!r} and {other.id!r} have different {field}s, {getattr(first, field)} and "
                f"{getattr(other, field)}; train on each by itself"
            )


def _local_ids() -> list[str]:
    """Ids below Minari's root: its own list stops at the first folder with an unfitting name."""
    root = data_root()
    return [path.parents[1].relative_to(root).as_posix() for path in root.glob(f"**/data/{METADATA_FILE_NAME}")]


def _cost(trajectory: Trajectory) -> int:
    """Bytes of memory that a trajectory takes up."""
    arrays = sum(1 for _ in leaves((trajectory.observations, trajectory.actions)))
    return trajectory.nbytes + _OBJECTS + 256 * arrays
