"""The HDF5 files of data sets, each opened once in a process."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import h5py
from minari.dataset.minari_storage import MinariStorage

from rmt_rl.data.storage import DATA_FILE, OpenFile, reads_parts

_MOST = 32  # open files of one store; systems limit those of a process


class OpenFiles:
    """The open files of the data sets of one store; the file that was used last is closed last.

    An open file stays readable if it is deleted or replaced. A forked process opens files of its own, and a pickled
    object has none open.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[int, h5py.File] = OrderedDict()
        self._process = os.getpid()
        self._inherited: list[Any] = []

    def get(self, dataset: int, storage: MinariStorage) -> OpenFile:
        """Return the open file of a data set; None for Minari's other formats.

        Raises:
            Exception: any error that h5py raises on files that it can't open.
        """
        if not reads_parts(storage):
            return None
        if os.getpid() != self._process:
            self._inherited.append(self._files)  # not closed, which would free the lock of the parent process
            self._files, self._process = OrderedDict(), os.getpid()
        files = self._files
        if dataset not in files:
            files[dataset] = h5py.File(storage.data_path / DATA_FILE, "r")
        files.move_to_end(dataset)
        while len(files) > _MOST:
            _, oldest = files.popitem(last=False)
            oldest.close()
        return files[dataset]

    def close(self) -> None:
        """Close all files; they are opened again when they are needed."""
        while self._files:
            _, file = self._files.popitem()
            file.close()

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[()]]:
        return OpenFiles, ()
