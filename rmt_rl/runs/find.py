"""The one place that knows how a run is named: as a folder, as `zoo:NAME` or as `hf://owner/name`.

Runs of the zoo come with this package; those of the Hub are downloaded into its client's cache. Both are read only, so
results of theirs go below the current folder's `runs`.
"""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from rmt_rl.errors import UsageError, nearest
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.runs.evaluation import FILE as EVALUATION
from rmt_rl.runs.folder import CONFIG
from rmt_rl.runs.huggingface import download, is_hub_url
from rmt_rl.runs.loggers.jsonl import METRICS
from rmt_rl.urls import check_local

ZOO = Path(__file__).parents[1] / "zoo"
PREFIX = "zoo:"
CHECKPOINTS = ("last", "best")
FILES = (CONFIG, METRICS, EVALUATION, *(path_of("", name).name for name in CHECKPOINTS))
"""The files of a run that are read of another machine."""
_RESULTS = Path("runs")


class FoundRun(NamedTuple):
    """A run that can be read.

    Attributes:
        folder: the local folder of its files.
        name: a name without slashes, of which ids of data sets are made.
        out: the folder for results if the run is read only; None for the run's own folder.
    """

    folder: Path
    name: str
    out: Path | None


def find_run(run: str | PathLike[str]) -> FoundRun:
    """Return the run of a name: `zoo:NAME`, `hf://owner/name`, `hf://owner/name@revision`, or a folder.

    A folder is returned as it is, whether there is one or not.

    Raises:
        UsageError: the zoo or the Hub has no such run, or the name is a URL elsewhere.
    """
    text = fspath(run)
    if text.startswith(PREFIX):
        name = text.removeprefix(PREFIX)
        return FoundRun(_in_zoo(name), name, _RESULTS / f"zoo-{name}")
    if is_hub_url(text):
        repository, folder = download(text, FILES)
        if not (folder / CONFIG).is_file():
            raise UsageError(f"hf://{repository} holds no run: it has no {CONFIG}; rmt-rl push makes one that does")
        name = f"{repository.owner}-{repository.name}"
        return FoundRun(folder, name, _RESULTS / name)
    folder = Path(run)
    check_local(folder)
    return FoundRun(folder, folder.resolve().name, None)


def is_run_name(text: str) -> bool:
    """Return True for the name of a run in the zoo or on the Hub."""
    return text.startswith(PREFIX) or is_hub_url(text)


def zoo_names() -> list[str]:
    """Return the names of the runs that come with this package."""
    return sorted(file.parent.name for file in ZOO.glob(f"*/{CONFIG}"))


def _in_zoo(name: str) -> Path:
    known = zoo_names()
    if name not in known:
        raise UsageError(f"{PREFIX}{name} isn't in the zoo, which has {', '.join(known)}{nearest(name, known)}")
    return ZOO / name
