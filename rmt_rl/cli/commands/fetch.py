"""Copy a run, or a sweep's runs, from a URL into a local folder, where every command finds them: rmt-rl fetch URL."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import Arguments
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.files import check_writable
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class Fetch(Frozen):
    """Copy a run, or a sweep's runs, from a URL such as s3://bucket/sweeps/lr into a local folder."""

    url: Positional[str] = Field(description="URL of a run, or of a sweep's runs (its --store)")
    out: Path | None = Field(None, description="folder to make (unset: runs/NAME, by the last part of the URL)")


def fetch_runs(arguments: Arguments) -> int:
    """Copy the files, without locks and other files that belong to a process; print the folder."""
    given = parse(Fetch, arguments, "rmt-rl fetch", __doc__ or "")
    from rmt_rl.remote import RemoteFolder, is_hidden
    from rmt_rl.runs.checkpoint import path_of

    folder = RemoteFolder(given.url)
    out = given.out or Path("runs", folder.url.rpartition("@")[2].rpartition("/")[2])
    if out.exists():
        raise UsageError(f"out={out} exists already; name a new folder by --out")
    check_writable(out, "choose another folder by --out")
    names = [name for name in folder.files() if not is_hidden(name)]
    if not names:
        raise UsageError(f"{folder.shown} holds no files; name the URL of a run or of a sweep's runs")
    part = out.with_name(f".{out.name}.part")  # so that a fetch that is broken off leaves nothing that looks whole
    shutil.rmtree(part, ignore_errors=True)
    try:
        folder.copy_to(part, names, first=path_of(part).name)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(out)
    return 0


COMMAND = fetch_runs
