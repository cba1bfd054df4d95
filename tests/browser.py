"""A real Chromium without a window, for tests of pages; the tests are skipped where none is installed.

`python -m tests.browser` fails where none is.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
ADDRESSES = 100 << 30  # bytes that Chromium reserves, at least, without using them
REMEDY = (
    "no Chromium is installed, so pages aren't tested: apt-get install chromium, or playwright install chromium, or "
    "name one by CHROMIUM=/path"
)


class Opened(NamedTuple):
    """A page, and what it did that it shouldn't."""

    page: Page
    complaints: list[str]
    requests: list[str]


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a browser, or skip the test."""
    with sync_playwright() as playwright:
        path = _installed(playwright)
        if path is None:
            pytest.skip(REMEDY)
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY and limit < ADDRESSES:
            pytest.skip("Chromium reserves more addresses than `ulimit -v` allows, so pages aren't tested")
        made = playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
        yield made
        made.close()


def _installed(playwright: Playwright) -> str | None:
    """Return the path of the browser that is named, that playwright has installed, or that the system has."""
    own = Path(playwright.chromium.executable_path)
    found = (shutil.which(name) for name in NAMES)
    return os.environ.get("CHROMIUM") or (str(own) if own.exists() else next(filter(None, found), None))


def opened(made: Browser, file: Path, width: int = 1200, scheme: str = "light") -> Opened:
    """Open a local file in a window of its own."""
    context = made.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    found = Opened(page, [], [])

    def note_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.complaints.append(message.text)

    def note_request(request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            found.requests.append(request.url)

    page.on("console", note_message)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", note_request)
    page.goto(file.as_uri())
    return found


if __name__ == "__main__":
    with sync_playwright() as started:
        sys.exit(0 if _installed(started) else 1)
