"""Success as environments report it: `is_success` in the info of the step that ends an episode.

True, False, 1 and 0 (also of NumPy, and in arrays of one number) say that the episode succeeded or failed. None, or no
`is_success` at all, says nothing. Every other value is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from rmt_rl.errors import UsageError

KEY = "is_success"
MASK = "_is_success"  # Gymnasium's mask of the environments that reported one


def as_success(value: object) -> bool | None:
    """Return what a reported `is_success` says: True or False; None if it says nothing.

    Raises:
        UsageError: the value is neither a truth value nor 0, 1 or None.
    """
    array = np.asarray(value)
    if array.size == 1:
        (number,) = array.ravel().tolist()
        if number is None:
            return None
        if array.dtype.kind in "biuf" and number in (0, 1):
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
    reported = infos.get(MASK)
    values = infos.get(KEY)
    is_missing = values is None or (reported is not None and not reported[index])
    return None if is_missing else as_success(values[index])


class SuccessAtEnd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports `is_success` at an episode's end alone, as True or False, or not at all.

    A vector environment of Gymnasium puts the reports of its environments into one array of the type of the first one.
    Without this wrapper, None beside True would become False there.
    """

    def step(self, action: Any) -> Any:
        """Make a step; the info is copied if it is changed.

        Raises:
            UsageError: as in `as_success`.
        """
        result = self.env.step(action)
        info = result[-1]
        if KEY not in info:
            return result
        observation, reward, terminated, truncated, _ = result
        success = as_success(info[KEY]) if terminated or truncated else None
        others = {key: value for key, value in info.items() if key != KEY}
        if success is not None:
            others[KEY] = success
        return observation, reward, terminated, truncated, others
