"""Minari data sets, read from disk on demand, and only the steps that are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec

from rmt_rl.data.cache import EpisodeCache, Key
from rmt_rl.data.opening import explained, open_dataset, reason_of
from rmt_rl.data.received import ForeignContent
from rmt_rl.data.returns import ReturnSummary, noted_returns, sum_from
from rmt_rl.data.screening import FAULTS, Odd, report
from rmt_rl.data.segment import Span
from rmt_rl.data.storage import (
    OUTCOMES,
    STEPS,
    OpenFile,
    StoredSpaces,
    opened,
    read_columns,
    read_index,
    read_spaces,
    reads_parts,
    was_changed,
)
from rmt_rl.data.trajectory import Trajectory, conform
from rmt_rl.errors import UsageError
from rmt_rl.learnable import check_actions, learnable_space, warn_of_text
from rmt_rl.task import check_same_spaces
from rmt_rl.trees import leaves

_SMALL_EPISODE = 1 << 20  # bytes; reading such an episode takes about as long as finding a few of its steps
_BYTES_OF_OUTCOMES = 8 + 1 + 1 + 4  # of one step: reward, two flags and return-to-go

Bools: TypeAlias = npt.NDArray[np.bool_]
Lengths: TypeAlias = npt.NDArray[np.int64]


class _Episode(NamedTuple):
    """One episode of the store.

    Attributes:
        dataset: number of its data set.
        number: its number in the data set.
        steps: its length.
        seed: seed of the reset that began it, if known.
    """

    dataset: int
    number: int
    steps: int
    seed: int | None


class EpisodeStore:
    """The episodes of one or several Minari data sets, read from disk on demand.

    An episode is read whole if it is small, or if all data fit into the cache together. Of other episodes, only the
    requested steps are read (from Minari's HDF5 format; Minari's other formats give only whole episodes).

    Odd episodes are left out: those without steps, of columns of different lengths, with rewards that aren't finite, or
    with an end before the last step; if all data fit into the cache, also those with observations or actions that
    aren't finite or don't fit their space. Data sets of ours that weren't changed since aren't searched for them.

    Args:
        dataset_id: one id, or several of observation and action spaces that differ in bounds and widths at most, joined
            in this order.
        cache_bytes: memory for what was read; the least recently used episodes are dropped first.
        annotate: returns an episode with labels computed from its own data, such as its hindsight classes. It needs
            whole episodes, so all episodes are then read whole.
        strict: refuse data sets with odd episodes.

    Raises:
        UsageError: a data set is missing, empty, damaged, or has other spaces than the first one.
    """

    def __init__(
        self,
        dataset_id: str | Sequence[str],
        cache_bytes: int = 1 << 30,
        annotate: Callable[[Trajectory], Trajectory] | None = None,
        strict: bool = False,
    ) -> None:
        self.ids = (dataset_id,) if isinstance(dataset_id, str) else tuple(dataset_id)
        if not self.ids:
            raise UsageError("dataset: no id was given; name at least one Minari data set")
        self._datasets = [open_dataset(each) for each in self.ids]
        self.observation_space: Space[Any]
        self.action_space: Space[Any]
        self.observation_space, self.action_space = self._common_spaces()
        self.env_spec: EnvSpec | None = self._datasets[0].env_spec
        self._cache = EpisodeCache(cache_bytes)
        self._annotate = annotate
        self._returns_of: list[ReturnSummary] = []  # of each data set
        odd, episodes = self._index()
        self._all_fit = self._bytes_of(episodes) <= cache_bytes
        found = [self._search(dataset, episodes) for dataset in range(len(self.ids))]
        for dataset, identity in enumerate(self.ids):
            report(identity, len(self._datasets[dataset]), odd[dataset] | found[dataset], strict)
        self._episodes = [each for each in episodes if each.number not in found[each.dataset]]
        self.lengths: Lengths = np.array([each.steps for each in self._episodes], dtype=np.int64)  # (N,) steps
        self._reads_whole = self._episodes_to_read_whole()  # (N,) bool
        self.span(0, 0, 1)  # a space that can't be learnt from shows here and not mid-run

    def _common_spaces(self) -> StoredSpaces:
        """Return the first data set's spaces without texts; those of the others must hold the same values."""
        found = []
        for identity, dataset in zip(self.ids, self._datasets, strict=True):
            with explained(identity):
                whole = read_spaces(dataset.storage)
                warn_of_text(whole.observation_space)
                check_actions(whole.action_space)
                found.append(whole._replace(observation_space=learnable_space(whole.observation_space)))
        first = found[0]
        for identity, other in zip(self.ids[1:], found[1:], strict=True):
            name, other_name = f"data set {self.ids[0]!r}", f"data set {identity!r}"
            check_same_spaces(name, first, other_name, other, "train on each alone")
        return first

    def _index(self) -> tuple[list[Odd], list[_Episode]]:
        """Return the episodes that have no step, for each data set, and all others."""
        odd: list[Odd] = []
        episodes = []
        for number, (identity, dataset) in enumerate(zip(self.ids, self._datasets, strict=True)):
            with explained(identity), opened(dataset.storage) as file:
                entries = read_index(dataset.storage, file, len(dataset))
            without: Odd = {}
            for episode, entry in enumerate(entries):
                if entry.steps is not None and entry.steps > 0:
                    episodes.append(_Episode(number, episode, entry.steps, entry.seed))
                else:
                    without[episode] = "it has no step" if entry.steps == 0 else f"its number of steps is {entry.steps}"
            odd.append(without)
        return odd, episodes

    def _search(self, dataset: int, episodes: Sequence[_Episode]) -> Odd:
        """Return the faults of the odd episodes of a data set, and note the returns of the others."""
        odd: Odd = {}
        returns = self._noted_returns(dataset)
        if returns is None:
            returns = ReturnSummary()
            storage = self._datasets[dataset].storage
            with explained(self.ids[dataset]), opened(storage) as file:
                for episode in episodes:
                    if episode.dataset != dataset:
                        continue
                    try:
                        returns.add(self._checked(episode, file))
                    except ForeignContent:
                        raise
                    except FAULTS as error:
                        odd[episode.number] = reason_of(error)
        self._returns_of.append(returns)
        return odd

    def _noted_returns(self, number: int) -> ReturnSummary | None:
        """Return the extremes of returns in a data set's metadata; None without them, or if the data were changed."""
        dataset = self._datasets[number]
        with explained(self.ids[number]):
            noted = noted_returns(dataset)
            is_valid = noted and noted.episodes == len(dataset) and not was_changed(dataset.storage)
        return noted if is_valid else None

    def _checked(self, episode: _Episode, file: OpenFile) -> Trajectory:
        """Return an episode, or its outline if not all data fit into the cache, and keep it in the cache."""
        if self._all_fit:
            read, is_outline = self._read, False
        else:
            self._columns(episode, STEPS, 0, 1, file)
            read, is_outline = self._read_outline, True
        trajectory = read(episode, file)
        self._cache.put(Key(episode.dataset, episode.number, is_outline), trajectory)
        return trajectory

    def _bytes_of(self, episodes: Sequence[_Episode]) -> int:
        """Return the bytes of all these episodes, or somewhat more."""
        return self._bytes_of_step * sum(each.steps for each in episodes)

    @cached_property
    def _bytes_of_step(self) -> int:
        """Bytes of an episode of one step: two observations, an action and its outcomes."""
        return 2 * bytes_of(self.observation_space) + bytes_of(self.action_space) + _BYTES_OF_OUTCOMES

    def _episodes_to_read_whole(self) -> Bools:
        """Return True for the episodes that are always read whole, bool (N,)."""
        storages = [dataset.storage for dataset in self._datasets]
        parts_can_be_read = all(map(reads_parts, storages))
        if self._all_fit or self._annotate or not parts_can_be_read:
            return np.ones(len(self), np.bool_)
        is_small: Bools = self.lengths * self._bytes_of_step <= _SMALL_EPISODE
        return is_small

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> Trajectory:
        """Return the whole episode of an index, 0 <= index < len(self).

        Raises:
            UsageError: its data are damaged or don't fit the data set's spaces.
        """
        episode = self._episodes[index]

        def read() -> Trajectory:
            with self._opened(episode) as file:
                return self._read(episode, file)

        return self._cache.get(Key(episode.dataset, episode.number, is_outline=False), read)

    def span(self, index: int, start: int, stop: int) -> Span:
        """Return the steps `start <= step < stop` of an episode, at least one.

        The span's trajectory may hold more than these steps.

        Raises:
            UsageError: their data are damaged or don't fit the data set's spaces.
        """
        episode = self._episodes[index]
        key = Key(episode.dataset, episode.number, is_outline=False)
        if self._reads_whole[index] or key in self._cache:
            return Span(self.episode(index), start, stop)
        part = self._read_part(episode, start, stop)
        return Span(part, 0, stop - start)

    @property
    def cached_bytes(self) -> int:
        """Bytes of memory that the cache takes up now."""
        return self._cache.bytes

    @property
    def max_return(self) -> float:
        """The largest absolute return-to-go of any step of any episode."""
        return max(each.largest for each in self._returns_of)

    @property
    def best_return(self) -> float:
        """The largest return of any episode."""
        return max(each.best for each in self._returns_of)

    def _read(self, episode: _Episode, file: OpenFile) -> Trajectory:
        """Read a whole episode."""
        columns = self._columns(episode, (*STEPS, *OUTCOMES), 0, episode.steps, file)
        trajectory = Trajectory(**columns, seed=episode.seed)
        if len(trajectory) != episode.steps:
            raise ValueError(f"{len(trajectory)} steps, of {episode.steps}")
        return self._annotate(trajectory) if self._annotate else trajectory

    def _outline(self, episode: _Episode) -> Trajectory:
        """Return the outline of an episode: all its outcomes, with observations and actions of no size."""

        def read() -> Trajectory:
            with self._opened(episode) as file:
                return self._read_outline(episode, file)

        return self._cache.get(Key(episode.dataset, episode.number, is_outline=True), read)

    def _read_outline(self, episode: _Episode, file: OpenFile) -> Trajectory:
        no_observations = np.empty((episode.steps + 1, 0))
        no_actions = np.empty((episode.steps, 0))
        outcomes = self._columns(episode, OUTCOMES, 0, 0, file)
        return Trajectory(no_observations, no_actions, **outcomes, seed=episode.seed)

    def _read_part(self, episode: _Episode, start: int, stop: int) -> Trajectory:
        """Read some steps of an episode; the outcomes of the whole episode are checked."""
        outline = self._outline(episode)
        outcomes = {}
        for name in OUTCOMES:
            whole = getattr(outline, name)
            outcomes[name] = whole[start:stop]
        later = sum_from(outline.rewards, stop)
        with self._opened(episode, start) as file:
            steps = self._columns(episode, STEPS, start, stop, file)
            return Trajectory(**steps, **outcomes, seed=episode.seed, later=later)

    def _columns(
        self, episode: _Episode, names: Sequence[str], start: int, stop: int, file: OpenFile
    ) -> dict[str, Any]:
        """Read columns of an episode, and check them against the spaces."""
        storage = self._datasets[episode.dataset].storage
        columns = read_columns(storage, file, episode.number, names, start, stop, episode.steps)
        spaces_of_steps = {"observations": self.observation_space, "actions": self.action_space}
        for name, space in spaces_of_steps.items():
            if name in columns:
                columns[name] = conform(columns[name], space, name)
        return columns

    @contextmanager
    def _opened(self, episode: _Episode, start: int = 0) -> Iterator[OpenFile]:
        """Yield the file of an episode; errors name the data set and the episode."""
        first_step = f" from step {start}" if start else ""
        place = f", episode {episode.number}{first_step}"
        with explained(self.ids[episode.dataset], place), opened(self._datasets[episode.dataset].storage) as file:
            yield file


def bytes_of(space: Space[Any]) -> int:
    """Return the bytes of one value of a space, as arrays."""
    return sum(int(np.prod(leaf.shape or ())) * np.dtype(leaf.dtype).itemsize for _, leaf in leaves(space))
