"""Push runs to the Hugging Face Hub, each as one commit: whatever fails, a repository has all files or its old ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rmt_rl.errors import UsageError
from rmt_rl.files import check_writable
from rmt_rl.hub.card import write_card
from rmt_rl.hub.pack import pack_run
from rmt_rl.hub.video import record_replay
from rmt_rl.runs.find import find_run, zoo_names
from rmt_rl.runs.huggingface import Repository, explained, import_hub, parse_repository, require_token

ZOO_PREFIX = "rmt-rl-"  # begins the names of the zoo's repositories


def push_run(run: str, repository: Repository, *, private: bool = False) -> str:
    """Push a run, with model card, curves and video; return the address of its page.

    Args:
        run: the run's folder or other name, see `find_run`.
        repository: made if it is missing.
        private: make a missing repository private.

    Raises:
        UsageError: there is no run, there is no token, or the Hub refuses the files or can't be reached.
    """
    require_token()
    with TemporaryDirectory() as folder:
        prepare(run, repository, Path(folder))
        return _commit(Path(folder), repository, private)


def push_zoo(owner: str, *, private: bool = False) -> Iterator[str]:
    """Push every run of the zoo to a repository of its own, `OWNER/rmt-rl-NAME`; yield the addresses of the pages.

    Raises:
        UsageError: as in `push_run`. Repositories that were pushed before stay.
    """
    for name in zoo_names():
        repository = parse_repository(f"{owner}/{ZOO_PREFIX}{name}")
        yield push_run(f"zoo:{name}", repository, private=private)


def write_folder(run: str, repository: Repository, folder: Path) -> None:
    """Write what would be pushed into a new folder.

    Raises:
        UsageError: there is no run, or the folder exists or can't be written to.
    """
    if folder.exists():
        raise UsageError(f"out={folder} exists already; name a new folder by --out")
    check_writable(folder, "choose another folder by --out")
    prepare(run, repository, folder)


def prepare(run: str, repository: Repository, folder: Path) -> None:
    """Write all files of a repository into a folder: the run's, its video if one can be made, curves and card."""
    source = find_run(run).folder
    pack_run(source, folder)
    try:
        record_replay(folder)
    except UsageError as error:
        warnings.warn(f"the card gets no video: {error}", UserWarning, stacklevel=2)
    write_card(folder, repository)


def _commit(folder: Path, repository: Repository, private: bool) -> str:
    hub = import_hub()
    api = hub.HfApi(library_name="rmt-rl")
    files = sorted(file for file in folder.iterdir() if file.is_file())
    operations = [hub.CommitOperationAdd(file.name, file) for file in files]
    with explained(str(repository), "written to"):
        address = api.create_repo(str(repository), private=private, exist_ok=True)
        api.create_commit(str(repository), operations, commit_message="Push a run of rmt-rl")
    return str(address)
