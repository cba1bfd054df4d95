"""Facts about how this process was started."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Return False in the further processes of data parallel training, which Fabric starts by the same command."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
