"""Columns of files of others: arrays by key in an npz or HDF5 file, of which rows are read.

Nothing is unpickled, and an HDF5 file can't lead to other files (see `rmt_rl.data.received`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np

from rmt_rl.data.received import inside
from rmt_rl.data.trajectory import Array
from rmt_rl.errors import UsageError, nearest
from rmt_rl.machine import check_fits
from rmt_rl.reading import check_regular

_MEMBER = ".npy"  # ending of the arrays in an npz file
NUMBERS = "biuf"  # kinds of NumPy's dtypes that columns may have
_DAMAGED = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


class Rows(Protocol):
    """An array (N, ...) in memory or in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice) -> Any: ...


@dataclass(frozen=True)
class Column:
    """One column of a file.

    Attributes:
        name: its file and key, for error messages.
        rows: the array.
    """

    name: str
    rows: Rows

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Return some rows.

        Raises:
            UsageError: they can't be read.
        """
        try:
            return np.asarray(self.rows[rows])
        except _DAMAGED as error:
            raise UsageError(f"{self.name} can't be read ({error}); copy the file again") from error


class Columns(NamedTuple):
    """The columns of an open file.

    Attributes:
        path: the file.
        keys: the keys of its columns.
        read: returns the array of a key.
    """

    path: Path
    keys: tuple[str, ...]
    read: Callable[[str], Rows]

    def column(self, key: str) -> Column:
        """Return the column of a key.

        Raises:
            UsageError: there is none, it holds no numbers, or it can't be read.
        """
        name = f"{self.path}: {key!r}"
        if key not in self.keys:
            known = ", ".join(self.keys)
            raise UsageError(f"{self.path} has no {key!r} (it has: {known}){nearest(key, self.keys)}; name it by --map")
        try:
            rows = self.read(key)
        except _DAMAGED as error:
            raise UsageError(f"{name} can't be read ({error}); save it as an array of numbers") from error
        kind = np.dtype(getattr(rows, "dtype", object)).kind
        if kind not in NUMBERS or not rows.shape:
            raise UsageError(f"{name} is no column of numbers; save it as an array with one row a step")
        return Column(name, rows)


@contextmanager
def open_columns(path: Path) -> Iterator[Columns]:
    """Open an npz or HDF5 file.

    Raises:
        UsageError: it is of another kind, is missing, or can't be read.
    """
    opened = _KINDS.get(path.suffix.lower())
    if opened is None:
        raise UsageError(f"{path}: data are imported from files that end in {', '.join(_KINDS)}; rename or convert it")
    with ExitStack() as stack:
        try:
            check_regular(path)
            columns: Columns = stack.enter_context(opened(path))
        except FileNotFoundError:
            raise UsageError(f"{path} doesn't exist; name files, or a folder of them") from None
        except _DAMAGED as error:
            raise UsageError(f"{path} can't be read ({error}); copy or download it again") from error
        yield columns


@contextmanager
def _open_npz(path: Path) -> Iterator[Columns]:
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename.removesuffix(_MEMBER): info.file_size for info in archive.infolist()}

        def read(key: str) -> Rows:
            check_fits(f"{path}: {key!r}", sizes[key], "save its episodes in several files, or as HDF5")
            with archive.open(key + _MEMBER) as member:
                rows: Array = np.lib.format.read_array(member, allow_pickle=False)
            return rows

        yield Columns(path, tuple(sizes), read)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Columns]:
    with closing(h5py.File(path, "r")) as file:

        def read(key: str) -> Rows:
            place: Any = file
            for part in key.split("/"):
                place = inside(place, part)
            rows: Rows = place
            return rows

        yield Columns(path, tuple(_keys(file)), read)


def _keys(group: h5py.Group, prefix: str = "") -> Iterator[str]:
    """Yield the keys of all arrays in a group, those in inner groups as `group/key`."""
    links: dict[str, int] = {}
    group.id.links.iterate(lambda name, info: links.setdefault(name.decode(errors="replace"), info.type), info=True)
    for name, kind in links.items():
        if kind != h5py.h5l.TYPE_HARD:
            yield prefix + name  # refused when it is read
            continue
        opened = h5py.h5o.open(group.id, name.encode())
        if isinstance(opened, h5py.h5g.GroupID):
            yield from _keys(h5py.Group(opened), f"{prefix}{name}/")
        else:
            yield prefix + name


_KINDS: dict[str, Callable[[Path], Any]] = {".npz": _open_npz, ".hdf5": _open_hdf5, ".h5": _open_hdf5}


def data_files(paths: Iterable[Path]) -> list[Path]:
    """Return files as they are given, and the npz and HDF5 files of folders, by the numbers in their names.

    Raises:
        UsageError: a folder holds none, or a file is named twice.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inner = [file for file in path.iterdir() if file.suffix.lower() in _KINDS]
        if not inner:
            raise UsageError(f"folder {path} holds no file that ends in {', '.join(_KINDS)}; name another one")
        files += sorted(inner, key=_by_numbers)
    named: set[Path] = set()
    for file in files:
        if file.absolute() in named:
            raise UsageError(f"{file} is named twice; name each file once")
        named.add(file.absolute())
    return files


def _by_numbers(file: Path) -> list[tuple[int, str]]:
    """Return a sort key by which `data_9` comes before `data_10`."""
    parts: list[tuple[int, str]] = []
    digits = ""
    for letter in f"{file.name}\0":
        if letter.isdecimal() and letter.isascii():
            digits += letter
            continue
        if digits:
            parts.append((int(digits), ""))
        digits = ""
        parts.append((-1, letter))
    return parts
