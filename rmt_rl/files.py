"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rmt_rl.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the place of `path` on leaving.

    An error inside the block leaves an earlier `path` as it was. The folder is made when it is missing.

    Raises:
        UsageError: the folder can't be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}; free it or choose another place") from error
    finally:
        with suppress(OSError):  # e.g. the folder is a file: the error above says so
            temporary.unlink(missing_ok=True)
