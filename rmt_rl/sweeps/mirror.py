"""Copies of the small files of runs that are kept at a URL, in the local folder where the sweep reads them.

These are options, metrics, results, logs, and the header of each last checkpoint; never weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.reading import parse_json, read_text
from rmt_rl.remote import RemoteFolder
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.runs.cpu_time import CPU_TIME
from rmt_rl.runs.evaluation import FILE as EVALUATION
from rmt_rl.runs.folder import CONFIG
from rmt_rl.runs.loggers.jsonl import METRICS
from rmt_rl.sweeps.engine import OWN, Job, Outcome
from rmt_rl.sweeps.lease import leased
from rmt_rl.sweeps.run import Report
from rmt_rl.sweeps.state import HEADER
from rmt_rl.terminal import complain
from rmt_rl.urls import without_password

INTERVAL = 10.0  # seconds between two looks for new files of running cells
_WAITS = (5.0, 10.0, 20.0, 40.0, *[60.0] * 9)  # seconds between attempts that a search waits for; 10 minutes
_LEASE = f"{OWN}/lock"
_MARK = "store"  # the file of the sweep's own that names the URL of the copied runs
_SMALL = (CONFIG, METRICS, EVALUATION, CPU_TIME)
_CHECKPOINT = path_of("").name
_SIZE = 8  # bytes of a safetensors file that hold the size of its header
_LARGEST = 100_000_000  # bytes of a header, as safetensors has it


@contextmanager
def mirrored(store: str, out: Path, own: Path) -> Iterator[Mirror | None]:
    """Yield the copies in `out` of runs at a URL, up to date, while no other sweep works there; None without a URL.

    Args:
        store: the URL; empty if there is none.
        out: the local folder of the sweep.
        own: the folder of the sweep's own files in it.

    Raises:
        UsageError: another sweep works at the URL, the storage can't be used, or the local folder holds other runs.
    """
    _check_mark(store, out, own / _MARK)
    if not store:
        yield None
        return
    with leased(store, _LEASE):
        mirror = Mirror(RemoteFolder(store), out)
        write_atomically(own / _MARK, mirror.folder.shown.encode())
        mirror.refresh()
        mirror.check_not_emptied()
        mirror.forget_removed()
        yield mirror


def _check_mark(store: str, out: Path, mark: Path) -> None:
    """Raise a UsageError if a local folder holds runs of its own besides a URL, or copies of those at another URL."""
    shown = without_password(store.rstrip("/"))
    copied = read_text(mark) if mark.exists() else ""
    if copied and copied != shown:
        raise UsageError(f"{out} holds copies of the runs at {copied}; name that by --store, or choose another --out")
    if shown and not copied and any(out.glob(f"*/{CONFIG}")):
        raise UsageError(f"{out} holds runs of its own; with --store, choose another folder for the copies by --out")


class Mirror:
    """Local copies of the small files at a URL.

    Args:
        folder: the folder at the URL.
        out: the local folder.
    """

    def __init__(self, folder: RemoteFolder, out: Path) -> None:
        self.folder, self.out = folder, out
        self._is_behind = False  # copies may be older than the originals, since the storage couldn't be used
        self._seen: dict[str, str] = {}  # every file by its name, with a text that changes when the file does

    def refresh(self, below: str = "") -> None:
        """Copy what has changed in the whole folder, or in one run's."""
        is_first = not self._seen
        files = self.folder.files(below)
        changed = [name for name, mark in files.items() if self._seen.get(name) != mark]
        small = [name for name in changed if _is_small(name) or (_is_log(name) and not is_first)]
        for name, content in self.folder.read_all(small).items():
            write_atomically(self.out / name, content)
        for name, header in self._headers([name for name in changed if _is_checkpoint(name)]).items():
            write_atomically((self.out / name).with_name(HEADER), header)
        self._seen |= files
        if not below:
            self._is_behind = False

    def refresh_if_possible(self, below: str = "") -> None:
        """Copy what has changed, or leave that for later if the storage can't be used."""
        try:
            self.refresh(below)
        except UsageError as error:
            if not self._is_behind:
                complain(f"{error}; trying again")
            self._is_behind = True

    def catch_up(self) -> None:
        """Copy what an earlier attempt couldn't; wait for the storage up to ten minutes.

        Raises:
            UsageError: the storage can't be used.
        """
        if self._is_behind:
            _patiently(self.refresh)

    def check_not_emptied(self) -> None:
        """Check that the URL holds a run if there are copies of some: storage may be away, such as an unmounted share.

        Raises:
            UsageError: it holds none.
        """
        if any(map(_is_of_run, self._seen)) or not any(self.out.glob(f"*/{CONFIG}")):
            return
        raise UsageError(
            f"{self.folder.shown} holds no runs, but {self.out} holds copies of runs from there; look whether the "
            f"storage is the right one, or remove {self.out} to begin anew"
        )

    def forget_removed(self) -> None:
        """Remove copies of runs' files that are no longer at the URL."""
        for name in (*_SMALL, HEADER):
            for path in self.out.glob(f"*/{name}"):
                original = f"{path.parent.name}/{_CHECKPOINT if name == HEADER else name}"
                if original not in self._seen:
                    path.unlink()

    def fetch(self, name: str) -> None:
        """Copy one of the sweep's own files, or remove it if it isn't at the URL."""
        path = self.out / OWN / name
        content = self.folder.read(f"{OWN}/{name}")
        if content is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, content)

    def keep(self, name: str) -> None:
        """Put one of the sweep's own files to the URL; wait for the storage up to ten minutes.

        Raises:
            UsageError: the storage can't be used.
        """
        _patiently(lambda: self.folder.put(f"{OWN}/{name}", self.out / OWN / name))

    def _headers(self, names: list[str]) -> dict[str, bytes]:
        """Return the headers of checkpoints, without their lists of tensors."""
        sizes = self.folder.read_all(names, 0, _SIZE)
        ends = []
        for content in sizes.values():
            size = int.from_bytes(content, "little")
            ends.append(_SIZE + min(size, _LARGEST))
        contents = self.folder.read_all(list(sizes), [_SIZE] * len(ends), ends)
        headers = {}
        for name, content in contents.items():
            with suppress(ValueError):  # damaged, which the cell will tell when it reads the file
                headers[name] = _metadata(content)
        return headers


class MirroredReport:
    """A report that is preceded by copying what has changed."""

    def __init__(self, report: Report, mirror: Mirror) -> None:
        self.report, self.mirror = report, mirror
        self._next = 0.0  # when to look again

    def kept(self, job: Job) -> None:
        self.report.kept(job)

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.mirror.refresh_if_possible(job.name)
        self.report.ended(job, outcome)

    def under_way(self, running: set[str]) -> None:
        if time.monotonic() > self._next:
            self.mirror.refresh_if_possible()
            self._next = time.monotonic() + INTERVAL
        self.report.under_way(running)


def _patiently(operation: Callable[[], object]) -> None:
    """Do an operation, again and again while it raises a UsageError, as long as a search waits for its storage."""
    for wait in _WAITS:
        try:
            operation()
        except UsageError as error:
            complain(f"{error}; trying again in {wait:g} s")
            time.sleep(wait)
        else:
            return
    operation()


def _metadata(content: bytes) -> bytes:
    """Return the texts beside the tensors in the header of a safetensors file, as JSON.

    Raises:
        ValueError: it is no such header.
    """
    values = parse_json(content)
    texts = values.get("__metadata__") if isinstance(values, Mapping) else None
    if not isinstance(texts, Mapping):
        raise ValueError("no header of safetensors")
    return json.dumps(texts).encode()


def _is_small(name: str) -> bool:
    return _is_of_run(name) and PurePosixPath(name).name in _SMALL


def _is_checkpoint(name: str) -> bool:
    return _is_of_run(name) and PurePosixPath(name).name == _CHECKPOINT


def _is_of_run(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0] != OWN


def _is_log(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".log" and path.parent == PurePosixPath(OWN)
