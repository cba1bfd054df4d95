"""Checks of received data sets: an HDF5 file may lead to other files, and an image may start other programs.

HDF5 follows links into other files, takes values of a data set from any file on the disk (external storage, virtual
data sets), and loads shared libraries that filters name. Pillow opens dozens of formats, and runs Ghostscript for one
of them. None of these stands in files that Minari writes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image

from rmt_rl.errors import UsageError

Images: TypeAlias = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG")
_BUILT_IN = {  # filters that come with HDF5 and h5py
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}


class ForeignContent(UsageError):
    """A data set leads to other files, or needs program libraries to be read."""


def check_links(folder: Path) -> None:
    """Check that the HDF5 file of a data set, if it has one, holds all episodes itself; opens none of them.

    Raises:
        UsageError: an episode is a link.
        OSError: it is no HDF5 file.
    """
    path = folder / "main_data.hdf5"
    if not path.exists() or path.stat().st_size == 0:  # Minari's file before the first episode
        return
    with h5py.File(path, "r") as file:
        links: dict[bytes, int] = {}

        def note(name: bytes, info: Any) -> None:
            links[name] = info.type

        file.id.links.iterate(note, info=True)
    for name, kind in links.items():
        _check_link(name.decode(errors="replace"), kind)


def inside(group: h5py.Group, key: str) -> Any:
    """Return the group or array of a key in a group.

    Raises:
        UsageError: the key is a link, or the array's values aren't in the file or need a program library to be read.
        RuntimeError: there is no such key.
    """
    name = key.encode()
    kind = group.id.links.get_info(name).type
    if kind != h5py.h5l.TYPE_HARD:
        _check_link(f"{group.name}/{key}", kind)
    opened = h5py.h5o.open(group.id, name)  # in a third of the time of `group[key]`
    if isinstance(opened, h5py.h5g.GroupID):
        return h5py.Group(opened)
    if not isinstance(opened, h5py.h5d.DatasetID):
        raise ValueError(f"{group.name}/{key} is neither a group nor an array")
    _check_storage(opened, f"{group.name}/{key}")
    return h5py.Dataset(opened)


def _check_link(name: str, kind: int) -> None:
    if kind != h5py.h5l.TYPE_HARD:
        raise ForeignContent(
            f"{name!r} is a link to another place, perhaps in another file, and isn't followed; write the data again "
            "without links"
        )


def _check_storage(array: Any, name: str) -> None:
    """Check that the values of an array, a `DatasetID`, are in the file and need no program library."""
    facts = array.get_create_plist()
    if facts.get_layout() == h5py.h5d.VIRTUAL or facts.get_external_count():
        raise ForeignContent(
            f"{name!r} takes its values from other files, which aren't read; write the data into one file"
        )
    filters = {facts.get_filter(index)[0] for index in range(facts.get_nfilters())}
    foreign = sorted(filters - _BUILT_IN)
    if foreign:
        raise ForeignContent(
            f"{name!r} is packed with HDF5 filters {foreign}, for which HDF5 would load a shared library; write "
            "the data again with gzip, or without a filter"
        )


def decoded(images: Iterable[npt.NDArray[Any]], shape: Sequence[int]) -> Images:
    """Return images that are stored as JPEG or PNG files, uint8 (T, H, W, C) or (T, H, W).

    Args:
        images: the bytes of each file.
        shape: shape of an image in its space; no picture of another size is decoded.

    Raises:
        ValueError: an image is in another format, of another size or damaged.
    """
    pictures = [_decoded_one(image.tobytes(), shape) for image in images]
    return np.array(pictures, np.uint8)


def _decoded_one(content: bytes, shape: Sequence[int]) -> Images:
    height, width = shape[:2]
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.size != (width, height):
                raise ValueError(f"its size is {image.size[0]} x {image.size[1]} pixels, not {width} x {height}")
            return np.asarray(image, np.uint8)
    except Exception as error:  # of Pillow's decoders, which raise many kinds
        raise ValueError(f"an image can't be read as JPEG or PNG: {error}") from error


@contextmanager
def only_formats(pixels: int) -> Iterator[None]:
    """Let Pillow open JPEG and PNG files alone in this block, of about so many pixels."""
    Image.init()  # else Pillow loads further formats when it knows none that fits
    known, limit = list(Image.ID), Image.MAX_IMAGE_PIXELS
    Image.ID[:] = FORMATS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        Image.ID[:] = known
        Image.MAX_IMAGE_PIXELS = limit
