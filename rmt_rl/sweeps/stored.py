"""Runs of cells that are kept at a URL: fetched before the work, and put there after every checkpoint and in the end.

The work is done in a local folder. At any moment the URL holds a run that can be resumed: files other than the last
checkpoint are put first, as they were when that checkpoint was saved, or later. This is what a killed process leaves in
a local folder, too. The fetching takes the checkpoint first for the same reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from rmt_rl import signals
from rmt_rl.errors import UsageError
from rmt_rl.locks import this_host
from rmt_rl.remote import RemoteFolder, is_hidden
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.runs.folder import LOCK
from rmt_rl.sweeps.engine import OWN, Job
from rmt_rl.sweeps.lease import Lease, LeaseLost, LeaseTaken, Pauses
from rmt_rl.terminal import complain

LOOK = 1.0  # seconds between two looks for a new checkpoint
_EVERY = 30.0  # seconds after which new metrics are put without a new checkpoint
_KEPT = "rmt-rl-kept-"  # begins the names of local folders with runs that couldn't be put to their URLs

Mark: TypeAlias = tuple[int, int]
"""Time of the last change and size of a local file."""


def log_name(job: Job) -> str:
    """Return the name of a job's log below the URL."""
    return f"{OWN}/{job.name}.log"


def local(job: Job, folder: Path) -> Job:
    """Return a job with its run and log in a local folder, from which they are put to the URL."""
    return job.model_copy(update={"run": folder / job.name, "log": folder / f"{job.name}.log"})


def keep_log(job: Job) -> None:
    """Put the log of a process that was killed to the URL, if the storage can be used."""
    with suppress(UsageError, OSError):
        RemoteFolder(job.store).put(log_name(job), job.log)


@contextmanager
def stored(job: Job) -> Iterator[None]:
    """Keep a job's run at the URL of its sweep, if it has one, while the block works on it in its local folder.

    Raises:
        UsageError: the storage can't be used, or another process has begun to work on the run.
    """
    if not job.store:
        yield
        return
    run = StoredRun(job)
    run.fetch()
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(run, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with signals.deferred():
            done.set()
            thread.join()
            run.finish()


class StoredRun:
    """A run at a URL, and the local folder in which this process works on it.

    Raises:
        UsageError: the storage can't be used; so do the methods.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = RemoteFolder(job.store)
        self.lease = Lease(self.folder, f"{job.name}/{LOCK}")
        self.last = path_of(job.run)
        self._stored: dict[str, Mark] = {}  # the files that are as at the URL, by their names there

    @property
    def has_new_checkpoint(self) -> bool:
        """True if the last checkpoint isn't at the URL yet."""
        return self.last.exists() and self._stored.get(self._name(self.last)) != _mark(self.last)

    def fetch(self) -> None:
        """Take the run from whichever process worked on it, and fetch its files."""
        self.lease.take()
        self.folder.remove_parts(self.job.name)
        names = [name for name in self.folder.files(self.job.name) if not is_hidden(name)]
        home = self.job.run.parent
        self.folder.copy_to(home, names, first=self.last.name)
        self._stored |= {name: _mark(home / name) for name in names}
        self._put_log()

    def put(self) -> None:
        """Put what has changed to the URL.

        Raises:
            LeaseLost: another process works on the run now.
        """
        self._put_log()
        with _checkpoints(self.job.run, self.last) as checkpoints:
            other = [path for path in _files(self.job.run) if path.suffix != self.last.suffix]
            for path in other:
                self._put(path, self._name(path))
            for path, copy in checkpoints.items():
                self._put(copy, self._name(path))
            self._remove_others({self._name(path) for path in (*other, *checkpoints)})

    def finish(self) -> None:
        """Put what is left, let others have the run, and remove the local folder.

        Raises:
            UsageError: the rest can't be put; the message names the folder that keeps the run, the only copy.
        """
        try:
            self.put()
        except LeaseTaken:  # the run is the other process's now
            shutil.rmtree(self.job.run, ignore_errors=True)
            raise
        except Exception as error:
            raise UsageError(f"{self._kept()}{error}") from error
        self.lease.release()
        shutil.rmtree(self.job.run, ignore_errors=True)

    def _kept(self) -> str:
        """Move the run out of the folder that is removed with the process; return the beginning of a message."""
        if not any(_files(self.job.run)):
            return ""
        home = self.job.run.parent
        kept = Path(tempfile.mkdtemp(prefix=_KEPT, dir=home.parent))
        shutil.move(self.job.run, kept)
        with suppress(OSError):
            shutil.copy2(self.job.log, kept)
        return f"run {kept / self.job.name} on {this_host()} isn't at the URL in full and is kept: "

    def _put(self, source: Path, name: str) -> None:
        """Put a local file under a name below the URL, unless it is there."""
        try:
            mark = _mark(source)
        except FileNotFoundError:  # it was removed meanwhile
            return
        if self._stored.get(name) != mark:
            self.lease.check()
            self.folder.put(name, source)
            self._stored[name] = mark

    def _remove_others(self, present: set[str]) -> None:
        """Remove files from the URL that this process has removed from the run, such as shards of old checkpoints."""
        for name in self._stored.keys() - present - {log_name(self.job)}:
            self.lease.check()
            self.folder.remove(name)
            del self._stored[name]

    def _put_log(self) -> None:
        self._put(self.job.log, log_name(self.job))

    def _name(self, path: Path) -> str:
        return f"{self.job.name}/{path.relative_to(self.job.run).as_posix()}"


def _watch(run: StoredRun, done: threading.Event) -> None:
    """Put a run to its URL whenever it has a new checkpoint, until the event; and from time to time its new metrics."""
    pauses = Pauses(LOOK)
    last = time.monotonic()
    while not done.wait(pauses.seconds):
        try:
            if not run.has_new_checkpoint and time.monotonic() < last + _EVERY:
                continue
            run.put()
            last = time.monotonic()
            pauses.reset()
        except LeaseLost as lost:
            complain(str(lost))
            os.kill(os.getpid(), signal.SIGTERM)
            return
        except Exception as error:  # the storage may come back; if not, the end of the work tells
            pauses.grow(error)


@contextmanager
def _checkpoints(run: Path, last: Path) -> Iterator[dict[Path, Path]]:
    """Yield links to the checkpoints of a run, by their paths, as they are at one moment; the last one comes last."""
    folder = run.with_name(f"{run.name}.checkpoints")
    try:
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            paths = [path for path in _files(run) if path.suffix == last.suffix]
            paths.sort(key=lambda path: path == last)
            try:
                before = {path: _mark(path) for path in paths}
                links = {path: _link(path, folder / str(index)) for index, path in enumerate(paths)}
                if before == {path: _mark(path) for path in paths}:
                    break
            except FileNotFoundError:  # a file of a checkpoint that was replaced meanwhile
                continue
        yield links
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(path: Path, link: Path) -> Path:
    """Make a link that keeps a file as it is when its path is replaced; return the link."""
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:  # the file system has no links
        shutil.copy2(path, link)
    return link


def _files(run: Path) -> list[Path]:
    """Return the files of a run's folder, without links, locks and temporary files."""
    files = []
    for folder, _, names in os.walk(run):
        files += [Path(folder, name) for name in names]
    shown = [path for path in files if not is_hidden(path.relative_to(run).as_posix())]
    return sorted(path for path in shown if path.is_file() and not path.is_symlink())


def _mark(path: Path) -> Mark:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
