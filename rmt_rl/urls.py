"""URLs in the place of paths, and passwords in URLs, which no message shows."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from rmt_rl.errors import UsageError

_PASSWORD = re.compile(r"(?P<user>:/{1,2}[^:\n]*):(?P<password>[^\n]*)@")  # to the last @: passwords may hold some
_DELIMITERS = re.compile(r"[/:@?#]")  # where a URL is divided, so that messages may quote a part of a password


def is_url(path: str | Path) -> bool:
    """Return True if a path was meant as a URL; of `//`, paths keep one slash."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE) is not None


def check_local(run: Path) -> None:
    """Raise a UsageError, which tells how to fetch a run, if its path was meant as a URL."""
    if is_url(run):
        shown = without_password(str(run))
        raise UsageError(f"run {shown} is at a URL; fetch it into a local folder first: rmt-rl fetch URL --out RUN")


def check_no_url(path: Path, remedy: str) -> None:
    """Raise a UsageError, which ends in the remedy, if the path of an output was meant as a URL."""
    if is_url(path):
        shown = without_password(str(path))
        raise UsageError(f"{shown} is at a URL, where only rmt-rl sweep --store URL writes its runs; {remedy}")


def without_password(text: str) -> str:
    """Return a text as it may be shown, without the passwords of URLs in it; of `//`, the URLs may have one slash."""
    return _PASSWORD.sub(r"\g<user>:***@", text)


def quotes_password(text: str, url: str) -> bool:
    """Return True if a text holds the password of a URL, or a part of it."""
    match = _PASSWORD.search(url)
    if match is None:
        return False
    password = match["password"]
    parts = [*_DELIMITERS.split(password), *_DELIMITERS.split(unquote(password))]
    return any(part in text for part in parts if part)
