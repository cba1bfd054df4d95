"""Reading episodes of one or several Minari data sets, whole or in part, with their spaces in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.registration import EnvSpec

from rmt_rl.data.index import EpisodeIndex, index_of, load_index, save_index, screening_key, stamp_of
from rmt_rl.data.open_files import OpenFiles
from rmt_rl.data.opening import explained, open_dataset
from rmt_rl.data.returns import ReturnSummary, noted_returns
from rmt_rl.data.storage import (
    OUTCOMES,
    STEPS,
    OpenFile,
    StoredSpaces,
    read_columns,
    read_lengths,
    read_seed,
    read_spaces,
    reads_parts,
    was_changed,
)
from rmt_rl.data.trajectory import Trajectory, conform
from rmt_rl.learnable import check_actions, learnable_space, warn_of_text
from rmt_rl.space_fit import joined
from rmt_rl.space_json import space_to_json
from rmt_rl.task import check_same_spaces
from rmt_rl.trees import bytes_of

_PIECE = 1024  # episodes whose lengths are read before the file is closed, in about 5 MiB
_BYTES_OF_OUTCOMES = 8 + 1 + 1 + 4  # of one step: reward, two flags and return-to-go


class Episode(NamedTuple):
    """The place and the length of an episode.

    Attributes:
        dataset: number of its data set.
        number: its number in the data set.
        steps: its length.
    """

    dataset: int
    number: int
    steps: int


class EpisodeReader:
    """Reads episodes from disk.

    Args:
        ids: data sets of observation and action spaces that differ in bounds and widths at most.
        annotate: returns a whole episode with labels computed from its own data; None leaves episodes alone.

    Attributes:
        sizes: number of all episodes of each data set.
        env_spec: spec of the environment of the first data set.

    Raises:
        UsageError: a data set is missing, empty, damaged, or has other spaces than the first one.
    """

    def __init__(self, ids: Sequence[str], annotate: Callable[[Trajectory], Trajectory] | None) -> None:
        self.ids = ids
        self._annotate = annotate
        datasets = [open_dataset(each) for each in ids]
        self.sizes = [len(dataset) for dataset in datasets]
        self.env_spec: EnvSpec | None = datasets[0].env_spec
        self._datasets = datasets
        self._storages = [dataset.storage for dataset in datasets]
        self._files = OpenFiles()
        self.observation_space, self.action_space = self._common_spaces()

    def _common_spaces(self) -> StoredSpaces:
        """Return the spaces of all data sets without texts; they may differ in bounds and widths alone."""
        found = []
        for identity, dataset in zip(self.ids, self._datasets, strict=True):
            with explained(identity):
                whole = read_spaces(dataset.storage)
                warn_of_text(whole.observation_space)
                check_actions(whole.action_space)
                found.append(whole._replace(observation_space=learnable_space(whole.observation_space)))
        common = found[0]
        for identity, other in zip(self.ids[1:], found[1:], strict=True):
            name, other_name = f"data set {self.ids[0]!r}", f"data set {identity!r}"
            check_same_spaces(name, found[0], other_name, other, "train on each alone")
            common = StoredSpaces(*map(joined, common, other))
        return common

    def indices(self) -> list[EpisodeIndex]:
        """Return the index of the episodes of each data set."""
        return list(map(self._index, range(len(self.ids))))

    def _index(self, number: int) -> EpisodeIndex:
        """Return the index that a data set holds, or a new one."""
        storage, episodes = self._storages[number], self.sizes[number]
        with self.opened(number) as file:
            if file is None:
                return index_of(read_lengths(storage, file, range(episodes)), None)
            folder = storage.data_path
            loaded = load_index(folder, episodes, file)
            if loaded is not None:
                return loaded
            stamp = stamp_of(folder)
        lengths = []
        for first in range(0, episodes, _PIECE):
            with self.opened(number) as file:
                lengths += read_lengths(storage, file, range(episodes)[first : first + _PIECE])
            self.close()  # HDF5 uses its memory of these episodes again for the next ones
        return index_of(lengths, stamp)

    def save(self, number: int, index: EpisodeIndex) -> None:
        """Write the index of a data set beside the data if the folder can be written to and lacks the index."""
        if not index.is_saved:
            save_index(self._storages[number].data_path, index)

    def screening_key(self, all_fit: bool) -> str:
        """Return the key of searches for odd episodes, which depend on their depth and on the spaces."""
        depth = "whole" if all_fit else "outcomes"
        return screening_key(depth, space_to_json(self.observation_space), space_to_json(self.action_space))

    def noted_returns(self, number: int) -> ReturnSummary | None:
        """Return the extremes of returns in a data set's metadata; None without them, or if the data were changed."""
        with explained(self.ids[number]):
            noted = noted_returns(self._datasets[number])
            is_valid = noted and noted.episodes == self.sizes[number] and not was_changed(self._storages[number])
        return noted if is_valid else None

    @property
    def reads_parts(self) -> bool:
        """True if some steps of an episode can be read at a lower cost than the whole episode."""
        return all(map(reads_parts, self._storages))

    @property
    def bytes_of_step(self) -> int:
        """Bytes of an episode of one step: two observations, an action and its outcomes."""
        return 2 * bytes_of(self.observation_space) + bytes_of(self.action_space) + _BYTES_OF_OUTCOMES

    @contextmanager
    def opened(self, dataset: int, place: str = "") -> Iterator[OpenFile]:
        """Yield the file of a data set; errors name the data set and the place in it, such as `", episode 3"`."""
        with explained(self.ids[dataset], place):
            yield self._files.get(dataset, self._storages[dataset])

    def close(self) -> None:
        """Close the files of the data sets, until they are needed again."""
        self._files.close()

    def whole(self, episode: Episode, file: OpenFile) -> Trajectory:
        """Read a whole episode."""
        columns = self.columns(episode, (*STEPS, *OUTCOMES), 0, episode.steps, file)
        trajectory = Trajectory(**columns, seed=self.seed(episode, file))
        if len(trajectory) != episode.steps:
            raise ValueError(f"{len(trajectory)} steps, of {episode.steps}")
        return self._annotate(trajectory) if self._annotate else trajectory

    def outline(self, episode: Episode, file: OpenFile) -> Trajectory:
        """Read the outcomes of an episode; return them with observations and actions of no size."""
        no_observations = np.empty((episode.steps + 1, 0))
        no_actions = np.empty((episode.steps, 0))
        outcomes = self.columns(episode, OUTCOMES, 0, 0, file)
        return Trajectory(no_observations, no_actions, **outcomes, seed=self.seed(episode, file))

    def seed(self, episode: Episode, file: OpenFile) -> int | None:
        """Return the seed of the reset that began an episode, if known."""
        return read_seed(self._storages[episode.dataset], file, episode.number)

    def columns(self, episode: Episode, names: Sequence[str], start: int, stop: int, file: OpenFile) -> dict[str, Any]:
        """Read columns of an episode, and check them against the spaces; see `read_columns`."""
        storage = self._storages[episode.dataset]
        columns = read_columns(storage, file, episode.number, names, start, stop, episode.steps)
        spaces_of_steps = {"observations": self.observation_space, "actions": self.action_space}
        for name, space in spaces_of_steps.items():
            if name in columns:
                columns[name] = conform(columns[name], space, name)
        return columns
