"""Writing Minari data sets atomically: a data set appears all at once, when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
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

from rmt_rl.data.index import index_of, stamp_of, write_index
from rmt_rl.data.keys import escaped
from rmt_rl.data.returns import RETURNS_KEY, ReturnSummary
from rmt_rl.data.root import data_root
from rmt_rl.data.storage import StoredSpaces, write_episodes, write_spaces
from rmt_rl.data.trajectory import Trajectory, conform
from rmt_rl.errors import UsageError
from rmt_rl.locks import Busy, held, holder_of, this_host
from rmt_rl.space_checks import check_spaces
from rmt_rl.spec_repairs import storable_spec
from rmt_rl.task import HasSpaces
from rmt_rl.trees import with_keys

_NOT_STORED = (NotImplementedError, ValueError, TypeError, AssertionError)  # of Minari, for spaces it can't read back
_RESERVE_BYTES = 64 << 20  # of the disk, left free: HDF5 buffers some of its data, and crashes on a full disk
_UNFINISHED = ".unfinished-"  # data sets being made; Minari lists no folder whose name starts with a dot
_LOCK = "lock"  # in such a folder, held by its maker
_BUILT = "dataset"  # in such a folder
_SET_ONCE = ("dataset_id", "minari_version")  # metadata that Minari lets nobody change
_REPLACED = "replaced"  # in such a folder
_DAY = 86_400.0  # seconds; after them, a maker of which nothing is known is gone


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
    folder: Path | None = None,
    extends: bool = False,
) -> None:
    """Write episodes as a Minari data set, one at a time, so that they needn't fit into memory.

    The data set appears all at once, when it is complete. If another process is making it, wait for that process.

    Args:
        dataset_id: `namespace/name-v0`.
        episodes: at least one.
        env_spec: spec of the environment that the episodes are from.
        observation_space: space of every observation.
        action_space: space of every action.
        algorithm_name: name of the policy that acted.
        description: one paragraph for people.
        ref_min_score: mean return of a random policy, for normalised scores.
        ref_max_score: mean return of an expert. None is the best return of the data, if `ref_min_score` is given.
        metadata: further facts to save with the data set.
        folder: the folder to build in, from `making`; None if `making` isn't entered yet.
        extends: write the episodes behind those that the data set has, if it is there; it is replaced at once.

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
    facts = {**(metadata or {}), **{key: value for key, value in facts.items() if value is not None}}
    with _building(dataset_id, folder, extends) as built:
        storage, is_new = _storage(built / "data", spaces, spec)
        returns = ReturnSummary(**storage.metadata.get(RETURNS_KEY, {}))
        lengths: list[int] = []
        write_episodes(storage, _watched(episodes, spaces, storage, returns, lengths))
        _check_not_empty(dataset_id, returns)
        if ref_min_score is not None:
            facts.setdefault("ref_max_score", returns.best)
        _describe(storage, facts | {RETURNS_KEY: vars(returns)}, lengths if is_new else None)


def _check_not_empty(dataset_id: str, returns: ReturnSummary) -> None:
    if returns.episodes == 0:
        raise UsageError(f"data set {dataset_id!r}: there was no episode to write; ask for at least one")


def _describe(storage: MinariStorage, facts: dict[str, Any], lengths: list[int] | None) -> None:
    """Write the metadata of a data set, and its index of the lengths.

    A data set that grew, whose lengths are None, keeps metadata that can't be changed. Its next reader makes an index.
    """
    if lengths is None:
        storage.update_metadata({key: value for key, value in facts.items() if key not in _SET_ONCE})
        return
    storage.update_metadata(facts)
    write_index(storage.data_path, index_of(lengths, stamp_of(storage.data_path)))


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


def _storage(folder: Path, spaces: StoredSpaces, env_spec: EnvSpec | None) -> tuple[MinariStorage, bool]:
    """Return the storage in a folder, or a new one there; and True if it is new."""
    if folder.exists():
        return MinariStorage.read(folder), False
    return _new_storage(folder, spaces, env_spec), True


def _new_storage(folder: Path, spaces: StoredSpaces, env_spec: EnvSpec | None) -> MinariStorage:
    """Return an empty storage without JPEG encoding, which would change the images."""
    names = [with_keys(escaped, space) for space in spaces]
    storage = MinariStorage.new(folder, *names, env_spec, jpeg_encoding=False)
    write_spaces(storage, spaces)
    return storage


def _watched(
    episodes: Iterable[Trajectory],
    spaces: StoredSpaces,
    storage: MinariStorage,
    returns: ReturnSummary,
    lengths: list[int],
) -> Iterator[Trajectory]:
    """Yield the episodes, fitted to their spaces, and note their returns and lengths.

    Raises:
        OSError: the disk has no room for an episode.
    """
    for episode in episodes:
        if shutil.disk_usage(storage.data_path).free < episode.nbytes + _RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        returns.add(episode)
        lengths.append(len(episode))
        yield replace(
            episode,
            observations=conform(episode.observations, spaces.observation_space, "observations"),
            actions=conform(episode.actions, spaces.action_space, "actions"),
        )


def is_made(dataset_id: str) -> bool:
    """Return True if a data set is there, whole or damaged. A folder without files, which a kill may leave, is none."""

    def fail(error: OSError) -> None:
        raise error

    try:
        return any(files for _, _, files in os.walk(data_root() / dataset_id, onerror=fail))
    except FileNotFoundError:
        return False
    except OSError:  # something is there that can't be looked into
        return True


@contextmanager
def making(dataset_id: str) -> Iterator[Path | None]:
    """Yield a folder for building a data set, which no other process makes meanwhile; None if the data set is there.

    Wait for another process that makes it. Remove the folder in the end, and those of killed makers of any data set.

    Raises:
        UsageError: the id is malformed, or Minari's root can't be written.
    """
    _check_id(dataset_id)
    if is_made(dataset_id):
        yield None
        return
    folder = data_root() / (_UNFINISHED + dataset_id.replace("/", "."))
    try:
        with _alone_in(folder, dataset_id):
            yield None if is_made(dataset_id) else folder
    finally:
        _remove_empty(folder)


@contextmanager
def _alone_in(folder: Path, dataset_id: str) -> Iterator[None]:
    """Keep other processes from building in a folder inside the block; it is empty when the block begins and ends."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / _LOCK))
        except Busy as maker:
            warnings.warn(f"data set {dataset_id!r} is being made by {maker}; waiting for it", stacklevel=4)
            stack.enter_context(held(folder / _LOCK, wait=True))
        _sweep(folder)
        try:
            yield
        finally:
            shutil.rmtree(folder / _BUILT, ignore_errors=True)


def _sweep(own: Path) -> None:
    """Remove what killed makers left behind, in a maker's own folder and beside it."""
    shutil.rmtree(own / _BUILT, ignore_errors=True)
    for folder in own.parent.glob(f"{_UNFINISHED}*"):
        if folder == own or folder.is_symlink() or _may_be_made_elsewhere(folder):
            continue
        with suppress(Busy, UsageError), held(folder / _LOCK):
            shutil.rmtree(folder / _BUILT, ignore_errors=True)
        _remove_empty(folder)


def _may_be_made_elsewhere(folder: Path) -> bool:
    """Return True if the maker is on another machine, whose locks may not be seen here, or unknown; for a day."""
    maker = holder_of(folder / _LOCK)
    if maker is not None and maker.host == this_host():
        return False
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # removed meanwhile
            times.append(path.stat().st_mtime)
    return time.time() - max(times) < _DAY


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # another process is making a data set there
        folder.rmdir()


@contextmanager
def _building(dataset_id: str, folder: Path | None, extends: bool) -> Iterator[Path]:
    """Yield a folder to build the data set in; move it to its place when the block is left without an error."""
    own: AbstractContextManager[Path | None] = making(dataset_id) if folder is None else nullcontext(folder)
    try:
        with own as place_to_build:
            if place_to_build is None:
                raise UsageError(f"data set {dataset_id!r} exists already; remove it with `minari delete {dataset_id}`")
            built = place_to_build / _BUILT
            place = data_root() / dataset_id
            if extends and place.exists():
                shutil.copytree(place, built)
            else:
                built.mkdir()
            yield built
            namespace, _, _ = dataset_id.rpartition("/")
            if namespace:
                with suppress(ValueError):  # exists already
                    create_namespace(namespace)
            if extends:
                _replace(built, place)
            else:
                _move(built, place)
    except OSError as error:
        raise UsageError(
            f"can't write data set {dataset_id!r} below {data_root()}: {error.strerror or error}; "
            "free space there or set MINARI_DATASETS_PATH to another folder"
        ) from error


def _move(built: Path, place: Path) -> None:
    """Move a data set to its place, unless another process has put a whole one there."""
    for empty in (place / "data", place):
        with suppress(OSError):  # it is missing, or isn't empty
            empty.rmdir()
    try:
        built.rename(place)
    except OSError:
        is_there = (place / "data" / METADATA_FILE_NAME).exists()
        if not is_there:
            raise


def _replace(built: Path, place: Path) -> None:
    """Move a data set to its place, in the place of an older one; `restore_replaced` undoes half of it."""
    old = built.parent / _REPLACED
    if place.exists():
        place.rename(old)
    place.parent.mkdir(parents=True, exist_ok=True)
    built.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def restore_replaced(folder: Path, dataset_id: str) -> None:
    """Bring a data set back to its place if its maker was killed in the moment in which it was replaced."""
    old = folder / _REPLACED
    place = data_root() / dataset_id
    if old.exists() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def alone_making(dataset_id: str) -> Iterator[Path]:
    """Yield a folder in which this process alone makes or extends a data set; it is kept as long as it holds files.

    Raises:
        UsageError: the id is malformed, another process makes the data set, or Minari's root can't be written.
    """
    _check_id(dataset_id)
    folder = data_root() / (_UNFINISHED + dataset_id.replace("/", "."))
    try:
        with held(folder / _LOCK):
            restore_replaced(folder, dataset_id)
            shutil.rmtree(folder / _BUILT, ignore_errors=True)  # of a maker that was killed
            try:
                yield folder
            finally:
                shutil.rmtree(folder / _BUILT, ignore_errors=True)
    except Busy as maker:
        raise UsageError(f"data set {dataset_id!r} is being made by {maker}; choose another name") from None
    finally:
        _remove_empty(folder)
