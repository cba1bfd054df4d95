"""Writing Minari data sets atomically: a data set appears all at once, when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage
from minari.namespace import create_namespace
from minari.serialization import deserialize_space, serialize_space

from rmt_rl.data.keys import escaped
from rmt_rl.data.opening import data_root
from rmt_rl.data.returns import RETURNS_KEY, ReturnSummary
from rmt_rl.data.storage import StoredSpaces, write_episodes, write_spaces
from rmt_rl.data.trajectory import Trajectory, conform
from rmt_rl.errors import UsageError
from rmt_rl.space_checks import check_spaces
from rmt_rl.spec_repairs import storable_spec
from rmt_rl.task import HasSpaces
from rmt_rl.trees import with_keys

_NOT_STORED = (NotImplementedError, ValueError, TypeError, AssertionError)  # of Minari, for spaces it can't read back
_RESERVE_BYTES = 64 << 20  # of the disk, left free: HDF5 buffers some of its data, and crashes on a full disk


def write_dataset(
    dataset_id: str,
    episodes: Iterable[Trajectory],
    *,
    env_spec: EnvSpec | None,
    observation_space: Space[Any],
    action_space: Space[Any],
    algorithm_name: str,
    description: str,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write episodes as a Minari data set, one at a time, so that they needn't fit into memory.

    The data set appears all at once, when it is complete. If another process finished a data set of the same id in the
    meantime, the other one stays.

    Args:
        dataset_id: `namespace/name-v0`.
        episodes: at least one.
        env_spec: spec of the environment that the episodes are from.
        observation_space: space of every observation.
        action_space: space of every action.
        algorithm_name: name of the policy that acted.
        description: one paragraph for people.
        ref_min_score: mean return of a random policy, for normalised scores.
        ref_max_score: mean return of an expert.
        metadata: further facts to save with the data set.

    Raises:
        UsageError: the id is malformed or taken, there is no episode, an episode doesn't fit the spaces, or Minari's
            root can't be written or is on a disk that is (nearly) full.
    """
    _check_id(dataset_id)
    spec = None if env_spec is None else storable_spec(env_spec)
    spaces = StoredSpaces(observation_space, action_space)
    check_storable(spaces)
    facts = {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "author": {"rmt-rl"},
        "algorithm_name": algorithm_name,
        "description": description,
        "ref_min_score": ref_min_score,
        "ref_max_score": ref_max_score,
    }
    facts = dict(metadata or {}) | {key: value for key, value in facts.items() if value is not None}
    with _building(dataset_id) as folder:
        storage = _new_storage(folder / "data", spaces, spec)
        returns = ReturnSummary()
        write_episodes(storage, _watched(episodes, spaces, storage, returns))
        if returns.episodes == 0:
            raise UsageError(f"data set {dataset_id!r}: there was no episode to write; ask for at least one")
        storage.update_metadata(facts | {RETURNS_KEY: vars(returns)})


def _check_id(dataset_id: str) -> None:
    """Raise a UsageError if an id is malformed."""
    match = DATASET_ID_RE.fullmatch(dataset_id)
    if not match or match["version"] is None:
        raise UsageError(
            f"dataset id {dataset_id!r} is malformed; give namespace/name-v0, of letters, digits, - and _, two or "
            "more in the namespace"
        )


def check_storable(spaces: HasSpaces) -> None:
    """Raise a UsageError unless a data set can hold observations and actions of these spaces."""
    check_spaces(spaces.observation_space, spaces.action_space)
    for name in StoredSpaces._fields:
        space = getattr(spaces, name)
        try:
            deserialize_space(serialize_space(with_keys(escaped, space)))
        except _NOT_STORED as error:
            raise UsageError(
                f"{name}={space} can't be stored ({error}); leave out what isn't numbers, e.g. by "
                "gymnasium.wrappers.FilterObservation in the environment's spec"
            ) from None


def _new_storage(folder: Path, spaces: StoredSpaces, env_spec: EnvSpec | None) -> MinariStorage:
    """Return an empty storage without JPEG encoding, which would change the images."""
    names = [with_keys(escaped, space) for space in spaces]
    storage = MinariStorage.new(folder, *names, env_spec, jpeg_encoding=False)
    write_spaces(storage, spaces)
    return storage


def _watched(
    episodes: Iterable[Trajectory], spaces: StoredSpaces, storage: MinariStorage, returns: ReturnSummary
) -> Iterator[Trajectory]:
    """Yield the episodes, fitted to their spaces, and count their returns.

    Raises:
        OSError: the disk has no room for an episode.
    """
    for episode in episodes:
        if shutil.disk_usage(storage.data_path).free < episode.nbytes + _RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        returns.add(episode)
        yield replace(
            episode,
            observations=conform(episode.observations, spaces.observation_space, "observations"),
            actions=conform(episode.actions, spaces.action_space, "actions"),
        )


@contextmanager
def _building(dataset_id: str) -> Iterator[Path]:
    """Yield a folder to build the data set in; move it to its place when the block is left without an error."""
    try:
        root = data_root()
        if (root / dataset_id).exists():
            raise UsageError(f"data set {dataset_id!r} exists already; remove it with `minari delete {dataset_id}`")
        # Minari lists no folder whose name starts with a dot.
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root) as hidden:
            built = Path(hidden, "dataset")
            built.mkdir()
            yield built
            namespace, _, _ = dataset_id.rpartition("/")
            if namespace:
                with suppress(ValueError):  # exists already
                    create_namespace(namespace)
            _move(built, root / dataset_id)
    except OSError as error:
        raise UsageError(
            f"can't write data set {dataset_id!r} below {data_root()}: {error.strerror or error}; "
            "free space there or set MINARI_DATASETS_PATH to another folder"
        ) from error


def _move(built: Path, place: Path) -> None:
    """Move a data set to its place, unless another process has put a whole one there."""
    try:
        built.rename(place)
    except OSError:
        is_there = (place / "data" / METADATA_FILE_NAME).exists()
        if not is_there:
            raise
