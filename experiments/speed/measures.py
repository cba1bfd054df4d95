"""Parts that all measures of speed share.

A measure's result is a dictionary for JSON. Speeds are lists, one number a repeat. Times are CPU time of one thread;
only the profiles' shares are of wall-clock time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from experiments.speed.sizes import Size
from rmt_rl.analysis.process_memory import peak_mb

Result = dict[str, Any]


class Effort(NamedTuple):
    """The amount of work that is measured.

    Attributes:
        episodes: episodes of the data set.
        updates: updates of a repeat; by default all batches of one pool of the feed.
        repeats: repeats of a speed, at most the size's own number.
        vector_steps: steps of all environments in a repeat of acting, at least.
    """

    episodes: int = 1000
    updates: int = 8
    repeats: int = 5
    vector_steps: int = 150


QUICK = Effort(episodes=64, updates=1, repeats=1, vector_steps=40)


def in_process(measure: Callable[..., Result], *arguments: Any) -> Result:
    """Run a measure on one thread; add the process's memory in MB, after imports and at its peak."""
    torch.set_num_threads(1)
    imported = peak_mb()
    result = measure(*arguments)
    return result | {"imported_mb": imported, "peak_mb": peak_mb()}


def repeats_of(size: Size, effort: Effort) -> int:
    """Return the number of times that a speed is measured."""
    return min(effort.repeats, size.repeats)
