"""Opening Minari data sets, and telling errors of the system and of versions apart from damage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import minari
from gymnasium.envs.registration import EnvSpec
from minari.dataset._storages import get_storage_keys
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.serialization import deserialize_space

from rmt_rl.data.received import check_links
from rmt_rl.data.root import data_root, local_ids
from rmt_rl.errors import UsageError, nearest
from rmt_rl.file_errors import unreadable
from rmt_rl.reading import check_regular, parse_json, read_text
from rmt_rl.spec_repairs import read_spec

DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, gymnasium.error.Error)
"""Errors that Minari and HDF5 raise on damaged files, among others."""

_UPDATES = {
    r"bad .*version number": "it was written with a newer HDF5: pip install -U h5py",
    r"EnvSpec": "its env_spec is of another Gymnasium: pip install -U gymnasium",
}
"""Remedies for data that newer packages can read, by a pattern of the error's message."""


def open_dataset(dataset_id: str) -> minari.MinariDataset:
    """Open a local Minari data set that has episodes. Its own `id` may be another one, if its folder was copied.

    Raises:
        UsageError: it is missing, damaged or empty, or the system or the installed packages can't read it.
    """
    root = data_root()
    match = DATASET_ID_RE.fullmatch(dataset_id)
    if not match:  # it could also lead out of the folder of data sets
        raise UsageError(f"data set id {dataset_id!r} is malformed; give namespace/name-v0")
    data = root / dataset_id / "data"
    with explained(dataset_id):
        is_there = data.exists()
    if not is_there:
        similar = nearest(dataset_id, local_ids(root))
        fetch = f"fetch it with `minari download {dataset_id}`"
        remedy = fetch if match["version"] else "give its version too, as in namespace/name-v0"
        raise UsageError(
            f"data set {dataset_id!r} is not below {root}{similar}; make it with `rmt-rl collect`, or {remedy}"
        )
    with explained(dataset_id):
        for file in data.iterdir():  # folders are parts of Minari's other formats
            if not file.is_dir():
                check_regular(file)
        _check_metadata(data)
        check_links(data)
        dataset = minari.load_dataset(dataset_id)
    if len(dataset) == 0:
        raise UsageError(f"data set {dataset_id!r} is empty; remove {data.parent} and collect or download it again")
    return dataset


@contextmanager
def explained(dataset_id: str, place: str = "") -> Iterator[None]:
    """Turn the errors that Minari and HDF5 raise while they read a data set into a UsageError.

    Args:
        dataset_id: the id by which the data set was asked for, which names its folder.
        place: the place in the data set, as in `", episode 3"`.
    """
    named = f"data set {dataset_id!r}{place}"
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{named}: {error}") from error
    except ImportError as error:  # its storage format needs another package
        raise UsageError(f"{named} can't be read: {error}") from error
    except DAMAGE as error:
        raise unreadable(named, error) or _of_content(dataset_id, named, error) from error


def _of_content(dataset_id: str, named: str, error: BaseException) -> UsageError:
    """Return the error for a data set whose content can't be read."""
    reason = reason_of(error)
    for pattern, remedy in _UPDATES.items():
        if re.search(pattern, reason):
            return UsageError(f"{named} can't be read ({reason}); {remedy}")
    folder = data_root() / dataset_id
    return UsageError(f"{named} is damaged ({reason}); remove {folder} and collect or download it again")


def reason_of(error: BaseException) -> str:
    """Return the message of an error, of a KeyError without its quotes; the error's kind if it has no message."""
    is_lookup = isinstance(error, KeyError) and error.args
    message = str(error.args[0] if is_lookup else error)
    return message or type(error).__name__


def evaluation_spec(dataset: minari.MinariDataset) -> EnvSpec | None:
    """Return the spec of the environment in which a data set's agents are evaluated; None if it names none.

    It is the data set's `eval_env_spec`, as PointMaze's and AntMaze's have one, or else its `env_spec`.
    """
    text = dataset.storage.metadata.get("eval_env_spec")
    return dataset.env_spec if text is None else read_spec(text)


def _check_metadata(data: Path) -> None:
    """Raise an error unless the installed Minari can read a data set with these metadata.

    Both spaces must be there, since Minari makes the environment that the metadata name if one is missing.
    """
    metadata = parse_json(read_text(data / METADATA_FILE_NAME), finite=False)
    _check_version(metadata["minari_version"])
    _check_format(metadata["data_format"])
    for name in ("observation_space", "action_space"):
        text = metadata[name]
        if not isinstance(text, str):
            raise ValueError(f"{name} is no string")
        _check_space(name, text)


def _check_version(version: str) -> None:
    """Raise a UsageError if the installed Minari doesn't read the format of this version."""
    installed = minari.__version__
    if version in minari.supported_dataset_versions:
        return
    numbers, installed_numbers = (list(map(int, re.findall(r"\d+", each))) for each in (version, installed))
    if not numbers:
        raise ValueError(f"minari_version is {version!r}")
    remedy = "pip install -U minari" if numbers > installed_numbers else "download a later version of the data set"
    raise UsageError(f"it was written by Minari {version}, which the installed Minari {installed} can't read; {remedy}")


def _check_format(name: str) -> None:
    """Raise a UsageError if the installed Minari knows no storage of this name."""
    known = get_storage_keys()
    if name not in known:
        raise UsageError(
            f"its data_format is {name!r}, but the installed Minari reads {', '.join(known)} alone; "
            "pip install -U minari"
        )


def _check_space(name: str, text: str) -> None:
    """Raise a UsageError if a space is of a type that Minari can't read."""
    unknown = _types(parse_json(text, finite=False)) - set(deserialize_space.registry)
    if unknown:
        raise UsageError(
            f"its {name} has the type {', '.join(sorted(unknown))}, which Minari can't read; if a module of yours "
            "teaches it to Minari, name the module with --import"
        )


def _types(space: Any) -> set[str]:
    """Return the types of a space and its parts, from Minari's JSON of the space."""
    parts = space.get("subspaces", ())
    found = {str(space["type"])}
    for part in parts.values() if isinstance(parts, dict) else parts:
        found |= _types(part)
    return found
