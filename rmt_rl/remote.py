"""Folders at URLs, by fsspec: `s3://bucket/folder`, `gs://`, `sftp://` and the other protocols that fsspec knows.

A URL names no module: fsspec imports the package of a protocol by its own list, or as an installed package declares it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from rmt_rl.errors import UsageError, nearest
from rmt_rl.terminal import one_line
from rmt_rl.urls import quotes_password, without_password

PART = ".part"  # ends the names of files whose writing isn't finished
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://(?P<rest>\S.*)")
PAUSES = (1.0, 4.0)  # seconds before an operation that failed is tried again
_HOPELESS = (ImportError, NotImplementedError)  # not tried again
_LONGEST_REASON = 300  # characters

T = TypeVar("T")


def check_url(url: str) -> None:
    """Check that a text is the URL of a folder, of a protocol that fsspec knows.

    Raises:
        UsageError: it isn't.
    """
    if "::" in url:
        raise UsageError(f"{without_password(url)}: protocols can't be chained by '::'; give the folder's own URL")
    match = _URL.fullmatch(url)
    if match is None:
        shown = without_password(repr(url))
        raise UsageError(f"{shown} is no URL of a folder; write e.g. s3://bucket/sweeps/lr")
    known = fsspec.available_protocols()
    protocol = match["protocol"]
    if protocol not in known:
        raise UsageError(f"{without_password(url)}: fsspec knows no protocol {protocol!r}{nearest(protocol, known)}")


def is_hidden(name: str) -> bool:
    """Return True for a file that belongs to a process, such as a lock or an unfinished file, or to the sweep itself.

    Such files, or a folder that holds them, have names that begin with a dot.
    """
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


class RemoteFolder:
    """A folder at a URL. Its files are named relative to it, as in `run/metrics.jsonl`. Threads may share it.

    A file is replaced at once. Where the storage can rename files, a file is written under another name first, which
    ends in `.part`. Storage that can't, such as S3, puts objects at once or not at all.

    Every method raises a UsageError if the storage can't be used.

    Args:
        url: the URL.

    Attributes:
        shown: the URL without a password.

    Raises:
        UsageError: the URL or its protocol isn't known, a package is missing, or the storage can't be reached.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self.shown = without_password(self.url)
        self._lock = threading.RLock()
        self._connect()

    def files(self, below: str = "") -> dict[str, str]:
        """Return the names of all files, or of those below a folder. Each has a text that changes when the file does.

        Unfinished files are included. Names that would lead out of the folder are left out.
        """
        found = self._tried("read", lambda: self._found(below))
        names = {}
        for path, facts in found.items():
            name = path.removeprefix(self._root).lstrip("/")
            if _is_inside(name):
                names[name] = repr(sorted(facts.items()))
        return names

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Sequence[str], starts: Any = None, ends: Any = None) -> dict[str, bytes]:
        """Return the contents of those files that exist, or the bytes of each from a start to an end."""
        paths = list(map(self._path, names))

        def contents() -> list[Any]:
            read: list[Any] = self._fs.cat_ranges(paths, starts, ends)
            _raise_first(read)
            return read

        read = self._tried("read", contents) if paths else []
        whole = {}
        for name, content in zip(names, read, strict=True):
            if isinstance(content, bytes):
                whole[name] = content
        return whole

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        self._put(name, lambda path: self._fs.pipe_file(path, content))

    def put(self, name: str, source: Path) -> None:
        """Copy a local file into the folder."""
        self._put(name, lambda path: self._fs.put_file(str(source), path))

    def get(self, name: str, target: Path) -> None:
        """Copy a file, which exists, to a local one."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._tried("read", lambda: self._fs.get_file(self._path(name), str(target)))

    def copy_to(self, target: Path, names: Iterable[str], first: str) -> None:
        """Copy files into a local folder under their names; those that are called `first` before the others.

        A writer puts such a file last, so the others are as new as it is, or newer.
        """
        for name in sorted(names, key=lambda name: PurePosixPath(name).name != first):
            self.get(name, target / name)

    def remove_parts(self, below: str) -> None:
        """Remove files below a folder whose writing was broken off. A writer that is alive writes its file again."""
        for name in self.files(below):
            if name.endswith(PART):
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a file if there is one."""
        path = self._path(name)

        def removed() -> None:
            self._fs.invalidate_cache()
            if self._fs.exists(path):  # not all protocols tell a missing file from other errors
                self._fs.rm_file(path)

        self._tried("written to", removed)

    def _connect(self, **options: Any) -> None:
        with self._explained("reached"):
            self._fs, root = url_to_fs(self.url, **options)
        self._root = str(root).rstrip("/")
        self._renames = type(self._fs).mv is not AbstractFileSystem.mv  # which copies: no better than a second put

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _found(self, below: str) -> Mapping[str, Mapping[str, Any]]:
        self._fs.invalidate_cache()
        try:
            found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._path(below), detail=True)
        except FileNotFoundError:
            return {}
        return found

    def _put(self, name: str, write: Callable[[str], object]) -> None:
        path = self._path(name)

        def at_once() -> None:
            if not self._renames:
                write(path)
                return
            folder, _, file = path.rpartition("/")
            part = f"{folder}/.{file}.{token_hex(8)}{PART}"
            self._fs.makedirs(folder, exist_ok=True)
            write(part)
            self._fs.mv(part, path)

        self._tried("written to", at_once)

    def _tried(self, what: str, operation: Callable[[], T]) -> T:
        """Return the result of an operation, which is tried again over a new connection when it fails."""

        def reconnected() -> T:
            self._connect(skip_instance_cache=True)  # which asks for credentials anew
            return operation()

        attempt = operation
        with self._lock, self._explained(what):
            for pause in PAUSES:
                try:
                    return attempt()
                except _HOPELESS:
                    raise
                except Exception:  # each protocol has its own
                    time.sleep(pause)
                    attempt = reconnected
            return attempt()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or error.name or "a package"
            raise UsageError(
                f"{self.shown} needs a package that isn't installed: pip install {package} ({self._reason(error)})"
            ) from error
        except Exception as error:  # each protocol has its own
            raise UsageError(
                f"{self.shown} can't be {what} ({self._reason(error)}); check the address, the credentials and the "
                "rights"
            ) from error

    def _reason(self, error: Exception) -> str:
        """Return an error of the storage as it may be shown; its type alone if it quotes the password."""
        name = type(error).__name__
        message = one_line(f"{name}: {error}")
        if quotes_password(message, self.url):
            return name
        return without_password(message)[:_LONGEST_REASON]


def _raise_first(read: Sequence[Any]) -> None:
    """Raise the first error among contents, unless it says that there is no such file."""
    for content in read:
        if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
            raise content


def _is_inside(name: str) -> bool:
    """Return True if a relative name can't lead out of a local folder, on any system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not set(name) & set("\\:\0")
