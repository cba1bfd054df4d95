"""Accuracy of a run of *reason* by the order of its facts: python -m experiments.long_context.order RUN.

Both facts are in one segment at the sequence's beginning or end, or in two: the holder's first or the places' first,
one segment apart or at either end. Fresh sequences with the test texts are asked at the end. Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from experiments.long_context.evaluate import SEED, streamed
from experiments.long_context.options import read_run
from experiments.long_context.tasks import Task
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.errors import UsageError, explained
from rmt_rl.statistics import success_interval


def main(run: Positional[Path], segments: int = 4, sequences: int = 128, seed: int = SEED + 1) -> None:
    """Test a run of *reason*, on one thread.

    Args:
        run: its folder.
        segments: segments of a sequence, 4 or more.
        sequences: sequences of each case.
        seed: of the sequences, apart from that of the table.
    """
    torch.set_num_threads(1)
    print(markdown_table(["holder", "places", "right"], list(rows(run, segments, sequences, seed)), left=0))


@torch.inference_mode()
def rows(folder: Path, segments: int, sequences: int, seed: int) -> Iterator[list[str]]:
    """Yield the segments (from 0) of the two facts, and the share of right answers with Wilson's 95% interval."""
    run = read_run(folder)
    options, model = run.options, run.model()
    if options.task != "reason" or options.memory == "none":
        raise UsageError(
            f"run={folder} is of {options.task} with memory={options.memory}; give one of reason with a memory"
        )
    if segments < 4 or sequences < 1:
        raise UsageError(f"segments={segments}, sequences={sequences}: give 4 and 1 or more")
    task = Task("reason", "test", options.segment, run.vocabulary)
    last = segments - 2  # the question's segment has no fact
    for holder, places in [
        (0, 0),
        (last, last),
        (0, 1),
        (1, 0),
        (last - 1, last),
        (last, last - 1),
        (0, last),
        (last, 0),
    ]:
        rng = np.random.default_rng(seed)
        drawn = [task.sequence(rng, 1)._replace(segments=(holder, places)) for _ in range(sequences)]
        for _, right_B in streamed(model, task, drawn, [segments], seed):
            right = int(right_B.sum())
            interval = bracketed(success_interval(right, sequences))
            yield [str(holder), str(places), f"{right / sequences:.2f}{interval}"]


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
