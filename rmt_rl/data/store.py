"""Minari data sets, read from disk on demand, and only the steps that are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec

from rmt_rl.data.cache import EpisodeCache, Key
from rmt_rl.data.index import LONGEST_FAULT, EpisodeIndex, Screening, faults_of_lengths
from rmt_rl.data.opening import reason_of
from rmt_rl.data.reader import Episode, EpisodeReader
from rmt_rl.data.received import ForeignContent
from rmt_rl.data.returns import NotedReturns, ReturnSummary, sum_from
from rmt_rl.data.screening import FAULTS, Odd, report
from rmt_rl.data.segment import Span
from rmt_rl.data.storage import OUTCOMES, STEPS, OpenFile
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError

_SMALL_EPISODE = 1 << 20  # bytes; reading such an episode takes about as long as finding a few of its steps

Bools: TypeAlias = npt.NDArray[np.bool_]
Lengths: TypeAlias = npt.NDArray[np.int64]


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
        self._reader = EpisodeReader(self.ids, annotate)
        self.observation_space = self._reader.observation_space
        self.action_space = self._reader.action_space
        self.env_spec: EnvSpec | None = self._reader.env_spec
        self._cache = EpisodeCache(cache_bytes)
        indices = self._reader.indices()
        steps = sum(float(index.lengths.clip(0).sum(dtype=np.float64)) for index in indices)
        self._all_fit = self._reader.bytes_of_step * steps <= cache_bytes
        self._returns_of: list[ReturnSummary] = []  # of each data set
        self._screens_labels = annotate is not None
        numbers = []  # of each data set's episodes
        for dataset, (identity, index) in enumerate(zip(self.ids, indices, strict=True)):
            odd = faults_of_lengths(index.lengths) | self._search(dataset, index)
            report(identity, self._reader.sizes[dataset], odd, strict)
            self._reader.save(dataset, index)
            kept = np.ones(len(index.lengths), np.bool_)
            kept[list(odd)] = False
            numbers.append(np.flatnonzero(kept))
        counts = list(map(len, numbers))
        self._dataset_of = np.repeat(np.arange(len(counts)), counts)  # (N,) int64
        self._number_of = np.concatenate(numbers)  # (N,) int64, the episode's number in its data set
        lengths = [index.lengths[kept] for index, kept in zip(indices, numbers, strict=True)]
        self.lengths: Lengths = np.concatenate(lengths)  # (N,) steps
        self._reads_whole = self._episodes_to_read_whole(annotate is not None)  # (N,) bool
        self.span(0, 0, 1)  # data that can't be read show here and not mid-run

    def _search(self, dataset: int, index: EpisodeIndex) -> Odd:
        """Return the faults of the odd ones among a data set's episodes with steps; note the returns of the others."""
        noted = self._reader.noted_returns(dataset)
        if noted is not None:
            self._returns_of.append(noted)
            return {}
        if self._screens_labels:  # the task's labels may find faults, too
            return self._read_all(dataset, index)
        key = self._reader.screening_key(self._all_fit)
        found = index.screenings.get(key)
        if found is not None:
            self._returns_of.append(found.returns.summary)
            return dict.fromkeys(found.odd, found.fault)
        odd = self._read_all(dataset, index)
        returns = self._returns_of[dataset]
        if returns.episodes:
            fault = odd[min(odd)] if odd else ""
            noted_returns = NotedReturns(**vars(returns))
            index.add(key, Screening(odd=tuple(odd), fault=fault[:LONGEST_FAULT], returns=noted_returns))
        return odd

    def _read_all(self, dataset: int, index: EpisodeIndex) -> Odd:
        """Read the episodes of a data set, and return the faults of the odd ones; note the returns of the others."""
        odd: Odd = {}
        returns = ReturnSummary()
        with_steps = np.flatnonzero(index.lengths > 0).tolist()
        with self._reader.opened(dataset) as file:
            for number in with_steps:
                episode = Episode(dataset, number, int(index.lengths[number]))
                try:
                    returns.add(self._checked(episode, file))
                except ForeignContent:
                    raise
                except FAULTS as error:
                    odd[number] = reason_of(error)
        self._returns_of.append(returns)
        return odd

    def _checked(self, episode: Episode, file: OpenFile) -> Trajectory:
        """Return an episode, or its outline if not all data fit into the cache, and keep it in the cache."""
        if self._all_fit:
            trajectory = self._reader.whole(episode, file)
        else:
            self._reader.columns(episode, STEPS, 0, 1, file)
            trajectory = self._reader.outline(episode, file)
        is_outline = not self._all_fit
        self._cache.put(Key(episode.dataset, episode.number, is_outline), trajectory)
        return trajectory

    def _episodes_to_read_whole(self, annotates: bool) -> Bools:
        """Return True for the episodes that are always read whole, bool (N,)."""
        if self._all_fit or annotates or not self._reader.reads_parts:
            return np.ones(len(self), np.bool_)
        is_small: Bools = self.lengths * self._reader.bytes_of_step <= _SMALL_EPISODE
        return is_small

    def __len__(self) -> int:
        return len(self.lengths)

    def keep(self, indices: Lengths) -> None:
        """Drop all episodes but those with these indices, ascending; the extremes of the returns stay those of all."""
        self._dataset_of = self._dataset_of[indices]
        self._number_of = self._number_of[indices]
        self._reads_whole = self._reads_whole[indices]
        self.lengths = self.lengths[indices]

    def _place(self, index: int) -> Episode:
        """Return the place and the length of the episode of an index."""
        return Episode(int(self._dataset_of[index]), int(self._number_of[index]), int(self.lengths[index]))

    def episode(self, index: int) -> Trajectory:
        """Return the whole episode of an index, 0 <= index < len(self).

        Raises:
            UsageError: its data are damaged or don't fit the data set's spaces.
        """
        return self._cached(self._place(index), is_outline=False)

    def span(self, index: int, start: int, stop: int) -> Span:
        """Return the steps `start <= step < stop` of an episode, at least one.

        The span's trajectory may hold more than these steps.

        Raises:
            UsageError: their data are damaged or don't fit the data set's spaces.
        """
        episode = self._place(index)
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

    def _cached(self, episode: Episode, is_outline: bool) -> Trajectory:
        """Return an episode or its outline, read now unless it is in the cache."""

        def read() -> Trajectory:
            with self._reader.opened(episode.dataset, f", episode {episode.number}") as file:
                return self._reader.outline(episode, file) if is_outline else self._reader.whole(episode, file)

        return self._cache.get(Key(episode.dataset, episode.number, is_outline), read)

    def _read_part(self, episode: Episode, start: int, stop: int) -> Trajectory:
        """Read some steps of an episode; the outcomes of the whole episode are checked."""
        outline = self._cached(episode, is_outline=True)
        outcomes = {}
        for name in OUTCOMES:
            whole = getattr(outline, name)
            outcomes[name] = whole[start:stop]
        later = sum_from(outline.rewards, stop)
        first_step = f" from step {start}" if start else ""
        with self._reader.opened(episode.dataset, f", episode {episode.number}{first_step}") as file:
            steps = self._reader.columns(episode, STEPS, start, stop, file)
            return Trajectory(**steps, **outcomes, seed=outline.seed, later=later)

    def close(self) -> None:
        """Close the files of the data sets; they are opened again when the next episode is read."""
        self._reader.close()
