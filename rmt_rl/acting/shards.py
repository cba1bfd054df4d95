"""Shards: parts of a data set or of an evaluation, which any process can play."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

Compute: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Calls a function with each argument and returns the results in order, as `map` does."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block, since the number of threads changes how PyTorch rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
