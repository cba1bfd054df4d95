"""Minari's folder of all data sets."""

from __future__ import annotations

import os
from pathlib import Path

from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.storage import get_dataset_path

from rmt_rl.errors import UsageError


def data_root() -> Path:
    """Return Minari's folder of all data sets; make it if it is missing.

    Raises:
        UsageError: it can't be made.
    """
    given = os.environ.get("MINARI_DATASETS_PATH")
    if given is None and not Path(os.path.expanduser("~")).is_absolute():
        raise UsageError("there is no home folder for data sets; set MINARI_DATASETS_PATH to a folder for them")
    try:
        return Path(get_dataset_path()).absolute()
    except OSError as error:
        unset = "the folder of data sets, ~/.minari/datasets,"
        folder = unset if given is None else f"MINARI_DATASETS_PATH is {given!r}, which"
        raise UsageError(
            f"{folder} can't be made ({error.strerror}); set MINARI_DATASETS_PATH to a folder that can be written"
        ) from error


def has_dataset(dataset_id: str) -> bool:
    """Return whether there is a local data set of this id; False also if the folder of all data sets can't be made."""
    try:
        root = data_root()
    except UsageError:
        return False
    return (root / dataset_id / "data").exists()


def local_ids(root: Path) -> list[str]:
    """Return the ids of the data sets below Minari's root; Minari's own list stops at the first unfitting folder."""
    ids = []
    for file in root.glob(f"**/data/{METADATA_FILE_NAME}"):
        folder = file.parents[1].relative_to(root)
        ids.append(folder.as_posix())
    return ids
