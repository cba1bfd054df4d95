"""The Hugging Face Hub: names of repositories, their files, and its errors as one line each.

Only files of values are downloaded: those of a run that the caller names. Nothing of the Hub is imported or unpickled.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rmt_rl.errors import UsageError
from rmt_rl.plugins import import_extra
from rmt_rl.terminal import one_line

SCHEME = "hf"
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?P<owner>{_PART})/(?P<name>{_PART})", re.ASCII)
_RUN = re.compile(r"hf:/{1,2}(?P<repository>[^@]*)(?:@(?P<revision>[\w./-]+))?")  # of `//`, paths keep one slash
_LONGEST_REASON = 300  # characters
_REMEDIES = {  # by the name of an error of huggingface_hub, or of one of its bases
    "GatedRepoError": "ask for access on its page, then log in: hf auth login",
    "RepositoryNotFoundError": "check the name; if the repository is private, log in: hf auth login",
    "RevisionNotFoundError": "name a branch, tag or commit of the repository behind the @",
    "OfflineModeIsEnabled": "unset HF_HUB_OFFLINE",
    "LocalEntryNotFoundError": "check the network, and HF_ENDPOINT if you set it",
    "ConnectError": "check the network, and HF_ENDPOINT if you set it",
    "ConnectionError": "check the network, and HF_ENDPOINT if you set it",
}
_STATUS_REMEDIES = {  # by HTTP status
    401: "log in with a token that may write (hf auth login), or set HF_TOKEN",
    403: "use a token that may write to this owner's repositories",
    429: "wait some minutes and try again",
}


class Repository(NamedTuple):
    """A repository of the Hub, as it is written: `owner/name`."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


def parse_repository(text: str) -> Repository:
    """Read `owner/name`, with `hf://` before it or without.

    Raises:
        UsageError: the text is no name of a repository.
    """
    match = _REPOSITORY.fullmatch(text.removeprefix(f"{SCHEME}://"))
    if match is None:
        raise UsageError(f"{text!r} is no repository of the Hub; write owner/name, of letters, digits, - _ and .")
    return Repository(match["owner"], match["name"])


def is_hub_url(text: str) -> bool:
    """Return True if a text was meant as `hf://owner/name`; of `//`, paths keep one slash."""
    return text.startswith(f"{SCHEME}:/")


def download(url: str, files: Sequence[str]) -> tuple[Repository, Path]:
    """Return a repository, and a local folder with those of its files that are asked for.

    The folder is in the cache of the Hub's client (`HF_HOME`). Without a network, the cached files are used.

    Args:
        url: `hf://owner/name`, or `hf://owner/name@revision` for a branch, tag or commit.
        files: names of files.

    Raises:
        UsageError: the URL names no repository, or the repository or the revision can't be read.
    """
    match = _RUN.fullmatch(url)
    if match is None:
        raise UsageError(f"{url!r} is no repository of the Hub; write hf://owner/name or hf://owner/name@revision")
    repository = parse_repository(match["repository"])
    return repository, _downloaded(repository, match["revision"], tuple(files))


@cache  # a process sees one state of a branch
def _downloaded(repository: Repository, revision: str | None, files: tuple[str, ...]) -> Path:
    hub = import_hub()
    at = f"@{revision}" if revision else ""
    shown = f"{SCHEME}://{repository}{at}"
    with explained(shown, "read"), _without_bars():
        return Path(hub.snapshot_download(str(repository), revision=revision, allow_patterns=list(files)))


def import_hub() -> Any:
    """Return the module `huggingface_hub`.

    Raises:
        UsageError: it isn't installed.
    """
    return import_extra("huggingface_hub", "hub", "the Hugging Face Hub")


def require_token() -> None:
    """Raise a UsageError if no token is there to write to the Hub with."""
    if import_hub().get_token() is None:
        raise UsageError(
            "there is no token for the Hub; log in with one that may write (hf auth login), or set HF_TOKEN"
        )


@contextmanager
def explained(shown: str, what: str) -> Iterator[None]:
    """Turn the errors of the Hub's client into a UsageError.

    Args:
        shown: the repository, as messages name it.
        what: `read` or `written to`.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # of the client, of its HTTP library, of the system
        reason = one_line(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]
        raise UsageError(f"{shown} can't be {what}: {_remedy(error)} ({reason})") from error


def _remedy(error: Exception) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    for kind, remedy in _REMEDIES.items():
        if kind in kinds:
            return remedy
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in _STATUS_REMEDIES:
        return _STATUS_REMEDIES[status]
    return "the Hub has a fault, try again later" if status >= 500 else "check the name and the network"


@contextmanager
def _without_bars() -> Iterator[None]:
    """Let the client draw no progress bars, of which it has three a download, in the block."""
    utils: Any = importlib.import_module("huggingface_hub.utils")  # which declares none of these
    were_disabled = utils.are_progress_bars_disabled()
    if not were_disabled:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            utils.enable_progress_bars()
