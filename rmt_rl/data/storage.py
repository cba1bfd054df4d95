"""Steps of episodes in Minari's storages, in and out.

Minari reads whole episodes alone, and has h5py choose the chunks of its files: blocks of many steps and a few pixels,
hundreds of which are read for any one image. So steps are read by h5py here, and written in chunks of whole steps; the
files are Minari's own all the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import h5py
import numpy as np
from gymnasium import Space, spaces
from minari.dataset.minari_storage import MinariStorage, is_image_space
from PIL import Image

from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.trees import Key, Place, children, leaves, map_leaves, map_space, named, nodes, part_at

STEPS = ("observations", "actions")
OUTCOMES = ("rewards", "terminations", "truncations")
_FILE = "main_data.hdf5"
_CHUNK = 1 << 16  # bytes, about


def reads_parts(storage: MinariStorage) -> bool:
    """Whether some steps of an episode cost less than all of it."""
    return bool(storage.FORMAT == "hdf5")


def read_columns(
    storage: MinariStorage, episode: int, names: Sequence[str], start: int, stop: int, length: int
) -> dict[str, Any]:
    """Read columns of one episode, as trees of its spaces.

    Args:
        storage: of a data set.
        episode: its number there.
        names: of `STEPS` and `OUTCOMES`.
        start: first step to be read of `STEPS`; of `OUTCOMES` all are.
        stop: the step after the last; observations have one entry more.
        length: steps of the episode.

    Raises:
        ValueError: a column is of another length.
        Exception: whatever else Minari and h5py raise on files that are damaged.
    """
    rows = {"observations": slice(start, stop + 1), "actions": slice(start, stop)}
    everything = slice(None)
    if not reads_parts(storage):
        (whole,) = storage.get_episodes([episode])
        return {name: map_leaves(itemgetter(rows.get(name, everything)), whole[name]) for name in names}
    known = {"observations": storage.observation_space, "actions": storage.action_space}
    columns: dict[str, Any] = {}
    with h5py.File(storage.data_path / _FILE, "r") as file:
        group = file[f"episode_{episode}"]
        for name in names:
            _check_lengths(group[name], length + (name == "observations"))
            if name in known:
                columns[name] = _read(group[name], known[name], name, rows[name], storage.jpeg_encoding)
            else:
                columns[name] = group[name][everything]
    return columns


def _check_lengths(stored: h5py.Group | h5py.Dataset, length: int) -> None:
    """Raise a ValueError if an array is of another length."""
    if isinstance(stored, h5py.Group):
        for part in stored.values():
            _check_lengths(part, length)
    elif len(stored) != length:
        raise ValueError(f"{stored.name} has {len(stored)} entries, not {length}")


def _read(stored: h5py.Group | h5py.Dataset, space: Space[Any], name: str, rows: slice, jpeg: bool) -> Arrays:
    """Return some rows of what is stored of a space.

    Raises:
        ValueError: parts of the space are missing, or there are others.
    """
    for place, part in nodes(space):
        if isinstance(part, spaces.Dict | spaces.Tuple):
            _check_keys(part_at(stored, tuple(map(_stored_key, place))), part, named(name, place))

    def read(place: Place, leaf: Space[Any]) -> Array:
        coded_rows = part_at(stored, tuple(map(_stored_key, place)))[rows]
        if not (jpeg and is_image_space(leaf)):
            return np.asarray(coded_rows)
        images = [np.asarray(Image.open(io.BytesIO(coded.tobytes()))) for coded in coded_rows]
        return np.array(images, np.uint8)

    values: Arrays = map_space(read, space)
    return values


def _check_keys(group: h5py.Group, space: Space[Any], name: str) -> None:
    known = {_stored_key(key) for key in children(space)}
    if set(group) != known:
        raise ValueError(f"{name} holds {sorted(group)}; its space asks for {sorted(known)}")


def write_episodes(storage: MinariStorage, episodes: Iterable[Trajectory]) -> None:
    """Write episodes into an empty HDF5 storage, one at a time, without JPEG encoding.

    Args:
        storage: just made.
        episodes: trees as its spaces are.

    Raises:
        OSError: the file can't be written.
    """
    count = steps = 0
    with h5py.File(storage.data_path / _FILE, "a", track_order=True) as file:
        for count, episode in enumerate(episodes, 1):
            group = file.create_group(f"episode_{count - 1}")
            group.attrs.update({"id": count - 1, "total_steps": len(episode)})
            if episode.seed is not None:
                group.attrs["seed"] = episode.seed
            for name in (*STEPS, *OUTCOMES):
                for place, leaf in leaves(getattr(episode, name)):
                    steps_of_chunk = min(len(leaf), 1 + _CHUNK // leaf[0].nbytes)
                    shape = leaf.shape[1:]
                    chunks, maxshape = (steps_of_chunk, *shape), (None, *shape)
                    group.create_dataset(_path(name, place), data=leaf, chunks=chunks, maxshape=maxshape)
            steps += len(episode)
    storage.update_metadata({"total_episodes": count, "total_steps": steps, "dataset_size": storage.get_size()})


def _path(name: str, place: Place) -> str:
    """Return where Minari stores an array, below its episode."""
    return "/".join([name, *map(_stored_key, place)])


def _stored_key(key: Key) -> str:
    return f"_index_{key}" if isinstance(key, int) else key
