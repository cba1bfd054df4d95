"""Steps of episodes in Minari's storages: reading and writing.

Minari reads only whole episodes. It also lets h5py choose the chunks of its files: blocks of many steps and a few
pixels, of which reading one image touches hundreds. Here h5py reads single steps, and writes chunks of whole steps. The
files remain valid Minari files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import h5py
import numpy as np
from gymnasium import Space, spaces
from minari.dataset.minari_storage import MinariStorage, is_image_space

from rmt_rl.data.received import decoded, inside, only_formats
from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.trees import Key, Place, keys_of, leaves, map_leaves, map_space, nodes, part_at, place_name

Stored: TypeAlias = h5py.Group | h5py.Dataset
STEPS = ("observations", "actions")
OUTCOMES = ("rewards", "terminations", "truncations")
_FILE = "main_data.hdf5"
_CHUNK_BYTES = 1 << 16  # about


def reads_parts(storage: MinariStorage) -> bool:
    """Return True if some steps of an episode can be read at a lower cost than the whole episode."""
    return bool(storage.FORMAT == "hdf5")


def read_columns(
    storage: MinariStorage,
    episode: int,
    names: Sequence[str],
    start: int,
    stop: int,
    length: int,
) -> dict[str, Any]:
    """Read columns of one episode, as trees of the data set's spaces.

    Args:
        storage: the data set's storage.
        episode: the episode's number in the storage.
        names: columns, from `STEPS` and `OUTCOMES`.
        start: the first step to read of `STEPS`; `OUTCOMES` are read whole.
        stop: the step after the last; observations have one entry more.
        length: steps of the episode.

    Raises:
        ValueError: a column is of another length.
        UsageError: a column isn't in the data set's file itself.
        Exception: any other error that Minari and h5py raise on damaged files.
    """
    rows = dict.fromkeys(OUTCOMES, slice(None))
    rows["observations"] = slice(start, stop + 1)
    rows["actions"] = slice(start, stop)
    columns: dict[str, Any] = {}
    if not reads_parts(storage):
        with only_formats(_largest_image(storage)):
            (whole,) = storage.get_episodes([episode])
        for name in names:
            cut = itemgetter(rows[name])
            columns[name] = map_leaves(cut, whole[name])
        return columns
    path = storage.data_path / _FILE
    with h5py.File(path, "r") as file:
        group = inside(file, f"episode_{episode}")
        for name in names:
            stored = inside(group, name)
            entries = length + 1 if name == "observations" else length
            _check_lengths(stored, entries)
            columns[name] = _read_column(stored, name, rows[name], storage)
    return columns


def _check_lengths(stored: Stored, length: int) -> None:
    """Raise a ValueError if an array is of another length, and a UsageError if it isn't in the file itself."""
    if isinstance(stored, h5py.Group):
        for key in stored:
            part = inside(stored, key)
            _check_lengths(part, length)
    elif len(stored) != length:
        raise ValueError(f"{stored.name} has {len(stored)} entries, not {length}")


def _read_column(stored: Stored, name: str, rows: slice, storage: MinariStorage) -> Arrays:
    """Return some rows of one column.

    Raises:
        ValueError: parts of the column's space are missing, or there are others.
    """
    spaces_of_steps = {"observations": storage.observation_space, "actions": storage.action_space}
    if name not in spaces_of_steps:
        outcomes: Array = stored[rows]
        return outcomes
    space = spaces_of_steps[name]
    for place, part in nodes(space):
        if isinstance(part, spaces.Dict | spaces.Tuple):
            group = _stored_at(stored, place)
            _check_keys(group, part, place_name(name, place))

    def read(place: Place, leaf: Space[Any]) -> Array:
        stored_rows = _stored_at(stored, place)[rows]
        if storage.jpeg_encoding and is_image_space(leaf):
            return decoded(stored_rows, leaf.shape or ())
        return np.asarray(stored_rows)

    values: Arrays = map_space(read, space)
    return values


def _largest_image(storage: MinariStorage) -> int:
    """Return the pixels of the largest image in a step; 1 if there are none."""
    pixels = 1
    for space in (storage.observation_space, storage.action_space):
        for _, leaf in leaves(space):
            if is_image_space(leaf):
                pixels = max(pixels, leaf.shape[0] * leaf.shape[1])
    return pixels


def _check_keys(group: h5py.Group, space: Space[Any], name: str) -> None:
    """Raise a ValueError if a group holds other parts than its space."""
    known = sorted(map(_stored_key, keys_of(space)))
    found = sorted(group)
    if found != known:
        raise ValueError(f"{name} holds {found}; its space asks for {known}")


def write_episodes(storage: MinariStorage, episodes: Iterable[Trajectory]) -> None:
    """Write episodes into an empty HDF5 storage, one at a time, without JPEG encoding.

    Args:
        storage: a new, empty storage.
        episodes: trees as the storage's spaces are.

    Raises:
        OSError: the file can't be written.
    """
    count = 0
    steps = 0
    path = storage.data_path / _FILE
    with h5py.File(path, "a", track_order=True) as file:
        for episode in episodes:
            group = file.create_group(f"episode_{count}")
            _write_episode(group, count, episode)
            count += 1
            steps += len(episode)
    totals = {
        "total_episodes": count,
        "total_steps": steps,
        "dataset_size": storage.get_size(),
    }
    storage.update_metadata(totals)


def _write_episode(group: h5py.Group, number: int, episode: Trajectory) -> None:
    """Write one episode into its empty group."""
    attributes = group.attrs
    attributes["id"] = number
    attributes["total_steps"] = len(episode)
    if episode.seed is not None:
        attributes["seed"] = episode.seed
    for name in (*STEPS, *OUTCOMES):
        values = getattr(episode, name)
        _write_column(group, name, values)


def _write_column(group: h5py.Group, name: str, values: Arrays) -> None:
    """Write a column of an episode, in chunks of whole steps."""
    for place, leaf in leaves(values):
        bytes_of_step = leaf[0].nbytes
        fitting = 1 + _CHUNK_BYTES // bytes_of_step
        steps_of_chunk = min(len(leaf), fitting)
        shape = leaf.shape[1:]
        group.create_dataset(
            _path(name, place),
            data=leaf,
            chunks=(steps_of_chunk, *shape),
            maxshape=(None, *shape),
        )


def _path(name: str, place: Place) -> str:
    """Return the path of an array below its episode."""
    keys = map(_stored_key, place)
    return "/".join([name, *keys])


def _stored_at(stored: Stored, place: Place) -> Any:
    """Return the group or array at a place."""
    keys = map(_stored_key, place)
    return part_at(stored, tuple(keys))


def _stored_key(key: Key) -> str:
    """Return Minari's name for a key of a Dict, or for an index of a Tuple."""
    return f"_index_{key}" if isinstance(key, int) else key
