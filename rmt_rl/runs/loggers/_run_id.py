"""The id of a run in a tracking service, kept in the run's folder so that a resumed run continues under the same id."""

from __future__ import annotations

from pathlib import Path

from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.reading import read_text


def read_id(path: Path) -> str | None:
    """Return the id in a file, or None if there is no such file.

    Raises:
        UsageError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        run_id = read_text(path).strip()
    except UnicodeDecodeError:
        run_id = ""
    if not run_id:
        raise UsageError(f"{path} is damaged: it holds no id of a run; remove it to log to a new one")
    return run_id


def write_id(path: Path, run_id: str) -> None:
    """Write an id to a file.

    Raises:
        UsageError: the disk is full.
    """
    write_atomically(path, f"{run_id}\n".encode())
