"""Writing files so that a reader sees the old one or the new one, whole, whenever the writer dies."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rmt_rl.errors import UsageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to disk, then rename; the folder is made when it is missing.

    Raises:
        UsageError: the folder can't be written to, or the disk is full; what stood at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written: {error.strerror}; free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # there is none, as it should be; or not even a folder
            temporary.unlink()
