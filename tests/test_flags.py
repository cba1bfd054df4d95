"""Command-line flags are read from several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rmt_rl.flags import parse
from rmt_rl.runs.options import TrainingConfig


def test_threads_may_read_flags_at_once() -> None:
    def read(updates: int) -> int:
        return parse(TrainingConfig, ["--updates", str(updates)], "train", "").updates

    numbers = range(1, 41)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, numbers)) == list(numbers)
