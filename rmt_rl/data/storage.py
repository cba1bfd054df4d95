"""Steps of episodes in Minari's storages, in and out.

Minari reads whole episodes alone, and has h5py choose the chunks of its files: blocks of many steps and a few pixels,
hundreds of which are read for any one image. So steps are read by h5py here, and written in chunks of whole steps; the
files are Minari's own all the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import h5py
import numpy as np
from gymnasium import Space, spaces
from minari.dataset.minari_storage import MinariStorage, is_image_space
from PIL import Image

from rmt_rl.data.segment import map_leaves
from rmt_rl.data.trajectory import Array, Arrays, Trajectory

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
    if not reads_parts(storage):
        (whole,) = storage.get_episodes([episode])
        return {name: map_leaves(itemgetter(rows.get(name, slice(None))), whole[name]) for name in names}
    tree = {"observations": storage.observation_space, "actions": storage.action_space}
    with h5py.File(storage.data_path / _FILE, "r") as file:
        group = file[f"episode_{episode}"]
        for name in names:
            _check_lengths(group[name], length + (name == "observations"))
        return {
            name: _read(group[name], tree.get(name), rows.get(name, slice(None)), storage.jpeg_encoding)
            for name in names
        }


def _check_lengths(stored: Any, length: int) -> None:
    for part in stored.values() if isinstance(stored, h5py.Group) else ():
        _check_lengths(part, length)
    if isinstance(stored, h5py.Dataset) and len(stored) != length:
        raise ValueError(f"{stored.name} has {len(stored)} entries, not {length}")


def _read(stored: Any, space: Space[Any] | None, rows: slice, jpeg: bool) -> Any:
    """Some rows of the tree below an HDF5 group, or of a dataset."""
    if isinstance(space, spaces.Dict):
        return {key: _read(stored[key], space[key], rows, jpeg) for key in stored}
    if isinstance(space, spaces.Tuple):
        return tuple(_read(stored[f"_index_{i}"], space[i], rows, jpeg) for i in range(len(stored)))
    if jpeg and space is not None and is_image_space(space):
        return np.array([np.asarray(Image.open(io.BytesIO(coded.tobytes()))) for coded in stored[rows]], np.uint8)
    return stored[rows]


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
                for path, leaf in _paths(getattr(episode, name), name):
                    chunk = min(len(leaf), 1 + _CHUNK // leaf[0].nbytes)  # steps
                    shape = leaf.shape[1:]
                    group.create_dataset(path, data=leaf, chunks=(chunk, *shape), maxshape=(None, *shape))
            steps += len(episode)
    storage.update_metadata({"total_episodes": count, "total_steps": steps, "dataset_size": storage.get_size()})


def _paths(tree: Arrays, path: str) -> Iterator[tuple[str, Array]]:
    """Every array of the tree with the place that Minari gives it below an episode."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _paths(branch, f"{path}/{key}")
    elif isinstance(tree, tuple):
        for index, branch in enumerate(tree):
            yield from _paths(branch, f"{path}/_index_{index}")
    else:
        yield path, np.asarray(tree)
