"""Steps of episodes in Minari's storages: reading and writing.

Minari reads only whole episodes. It also lets h5py choose the chunks of its files: blocks of many steps and a few
pixels, of which reading one image touches hundreds. Here h5py reads single steps, and writes chunks of whole steps. The
files remain valid Minari files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
from gymnasium import Space, spaces
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage, is_image_space

from rmt_rl.data.keys import escaped, unescaped
from rmt_rl.data.received import decoded, inside, only_formats
from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.learnable import map_learnable, without_text
from rmt_rl.space_json import space_from_json, space_to_json
from rmt_rl.trees import Key, Place, keys_of, leaves, map_leaves, nodes, part_at, place_name, with_keys

Stored: TypeAlias = h5py.Group | h5py.Dataset
OpenFile: TypeAlias = h5py.File | None
STEPS = ("observations", "actions")
OUTCOMES = ("rewards", "terminations", "truncations")
DATA_FILE = "main_data.hdf5"
UNKNOWN = int(np.iinfo(np.int64).min)  # in place of the steps of an episode that doesn't tell them
_CHUNK_BYTES = 1 << 16  # about


class StoredSpaces(NamedTuple):
    """The spaces of a data set's observations and actions."""

    observation_space: Space[Any]
    action_space: Space[Any]


def read_spaces(storage: MinariStorage) -> StoredSpaces:
    """Return the spaces of a data set, whose own attributes have escaped keys and lack dtypes of Discrete.

    Raises:
        Exception: any error that Minari and `space_from_json` raise on damaged metadata.
    """
    metadata = MinariStorage.read_raw_metadata(storage.data_path)
    found = []
    for name in StoredSpaces._fields:
        try:
            space = space_from_json(metadata[name])
        except ValueError:  # of a type that a module of the user's taught to Minari
            space = getattr(storage, name)
        found.append(with_keys(unescaped, space))
    return StoredSpaces(*found)


def write_spaces(storage: MinariStorage, stored: StoredSpaces) -> None:
    """Write the spaces of a data set into its metadata, with escaped keys, in place of Minari's lossy ones.

    Minari reads them too.
    """
    metadata = MinariStorage.read_raw_metadata(storage.data_path)
    for name, space in stored._asdict().items():
        metadata[name] = space_to_json(with_keys(escaped, space))
    path = storage.data_path / METADATA_FILE_NAME
    path.write_text(json.dumps(metadata), encoding="utf-8")


def reads_parts(storage: MinariStorage) -> bool:
    """Return True if some steps of an episode can be read at a lower cost than the whole episode."""
    return bool(storage.FORMAT == "hdf5")


def was_changed(storage: MinariStorage) -> bool:
    """Return True if episodes were written after the metadata, which `rmt_rl.data.writing` writes last."""
    changes = [(storage.data_path / name).stat().st_mtime_ns for name in (METADATA_FILE_NAME, DATA_FILE)]
    return bool(changes[1] > changes[0])


def read_lengths(storage: MinariStorage, file: OpenFile, numbers: range) -> list[int]:
    """Return the steps of episodes of a storage, `UNKNOWN` for an episode that doesn't tell.

    Args:
        storage: the data set's storage.
        file: its open file; None for Minari's other formats.
        numbers: the episodes.

    Raises:
        Exception: any error that Minari and h5py raise on damaged files.
    """
    if file is None:
        return [read_length(facts) for facts in storage.get_episode_metadata(numbers)]
    missing = [number for number in numbers if f"episode_{number}" not in file]
    if missing:
        episodes = storage.total_episodes
        raise ValueError(f"its metadata count {episodes} episodes, but episode_{missing[0]} isn't in its file")
    return [read_length(inside(file, f"episode_{number}").attrs) for number in numbers]


def read_length(facts: Any) -> int:
    """Return the steps of an episode from its attributes; `UNKNOWN` if these don't tell.

    Raises:
        ValueError: the number of steps is beyond 64 bits.
    """
    steps = facts.get("total_steps")
    if steps is None:
        return UNKNOWN
    number = int(steps)
    if abs(number) >= 1 << 62:
        raise ValueError(f"an episode counts {number} steps")
    return number


def read_seed(storage: MinariStorage, file: OpenFile, episode: int) -> int | None:
    """Return the seed of the reset that began an episode, if known."""
    if file is None:
        (facts,) = storage.get_episode_metadata([episode])
    else:
        facts = inside(file, f"episode_{episode}").attrs
    seed = facts.get("seed")
    is_known = isinstance(seed, int | np.integer)  # older versions of Minari store an unknown seed as "None"
    return int(seed) if is_known else None


def read_columns(
    storage: MinariStorage,
    file: OpenFile,
    episode: int,
    names: Sequence[str],
    start: int,
    stop: int,
    length: int,
) -> dict[str, Any]:
    """Read columns of one episode, as trees of the data set's spaces without their texts.

    Args:
        storage: the data set's storage.
        file: its open file; None for Minari's other formats.
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
    if file is None:
        with only_formats(_largest_image(storage)):
            (whole,) = storage.get_episodes([episode])
        for name in names:
            cut = itemgetter(rows[name])
            space = _space_of(name, storage)
            values = without_text(map_leaves(cut, whole[name]), space) if space else whole[name][rows[name]]
            columns[name] = with_keys(unescaped, values)
        return columns
    group = inside(file, f"episode_{episode}")
    for name in names:
        if not group.id.links.exists(name.encode()):
            raise ValueError(f"it has no {name}")
        stored = inside(group, name)
        entries = length + 1 if name == "observations" else length
        _check_lengths(stored, entries)
        values = _read_column(stored, name, rows[name], storage)
        columns[name] = with_keys(unescaped, values)
    return columns


def _space_of(name: str, storage: MinariStorage) -> Space[Any] | None:
    """Return the space of a column, with Minari's keys; None for rewards and flags."""
    spaces_of_steps = {"observations": storage.observation_space, "actions": storage.action_space}
    return spaces_of_steps.get(name)


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
    space = _space_of(name, storage)
    if space is None:
        outcomes: Array = stored[rows]
        return outcomes
    for place, part in nodes(space):
        if isinstance(part, spaces.Dict | spaces.Tuple):
            group = _stored_at(stored, place)
            _check_keys(group, part, place_name(name, place))

    def read(place: Place, leaf: Space[Any]) -> Array:
        stored_rows = _stored_at(stored, place)[rows]
        if storage.jpeg_encoding and is_image_space(leaf):
            return decoded(stored_rows, leaf.shape or ())
        return np.asarray(stored_rows)

    values: Arrays = map_learnable(read, space)
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
    stored_keys = map(_stored_key, keys_of(space))
    # HDF5 takes a slash for a path. Minari doesn't escape it.
    known = sorted({key.partition("/")[0] for key in stored_keys})
    found = sorted(group)
    if found != known:
        raise ValueError(f"{name} holds {found}; its space asks for {known}")


def write_episodes(storage: MinariStorage, episodes: Iterable[Trajectory]) -> None:
    """Write episodes into an HDF5 storage, behind those that it has, one at a time and without JPEG encoding.

    Args:
        storage: a new storage, or one that this function has written to.
        episodes: trees as the storage's spaces are, but with the keys not escaped.

    Raises:
        OSError: the file can't be written.
    """
    count = storage.total_episodes
    steps = storage.total_steps
    path = storage.data_path / DATA_FILE
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
    for name, value in (episode.marks or {}).items():
        attributes[name] = value
    for name in (*STEPS, *OUTCOMES):
        values = getattr(episode, name)
        _write_column(group, name, with_keys(escaped, values))


def _write_column(group: h5py.Group, name: str, values: Arrays) -> None:
    """Write a column of an episode, in chunks of whole steps."""
    for place, node in nodes(values):
        path = _path(name, place)
        if isinstance(node, dict | tuple):  # which may have no part
            group.create_group(path)
        else:
            _write_array(group, path, node)


def _write_array(group: h5py.Group, path: str, array: Array) -> None:
    """Write an array (T, ...)."""
    if array.size == 0:  # HDF5 has no chunks without size
        group.create_dataset(path, data=array)
        return
    bytes_of_step = array[0].nbytes
    fitting = 1 + _CHUNK_BYTES // bytes_of_step
    steps_of_chunk = min(len(array), fitting)
    shape = array.shape[1:]
    group.create_dataset(
        path,
        data=array,
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
