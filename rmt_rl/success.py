"""Success as environments report it: `is_success` in the info of the step that ends an episode.

True, False, 1 and 0 (also of NumPy, and in arrays of one number) say that the episode succeeded or failed. None, or no
`is_success` at all, says nothing. Every other value is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rmt_rl.errors import UsageError

SUCCESS = "is_success"
_MASK = "_is_success"  # Gymnasium's mask of the environments that reported one


def as_success(value: object) -> bool | None:
    """Return what a reported `is_success` says: True or False; None if it says nothing.

    Raises:
        UsageError: the value is neither a truth value nor 0, 1 or None.
    """
    if value is None:
        return None
    number = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    if number is None:
        return None
    if isinstance(number, bool | int | float) and number in (0, 1):
        return bool(number)
    raise UsageError(
        f"is_success={value!r} at an episode's end says neither success nor failure; report True or False, or None "
        "where it isn't known"
    )


def success_of(infos: Mapping[str, Any], index: int) -> bool | None:
    """Return the success that a vector environment's infos report of the environment with this index.

    Raises:
        UsageError: as in `as_success`.
    """
    values = infos.get(SUCCESS)
    if values is None:
        return None
    mask = infos.get(_MASK)
    is_reported = mask is None or mask[index]
    return as_success(values[index]) if is_reported else None
