"""Tests a run on fresh sequences of 1, 2, 4 ... segments: python -m experiments.long_context.evaluate RUN.

A sequence streams through the model once, its state carried along; nothing is kept of a segment but the state. The
filler is the test part's. Writes `evaluation.json` into the run's folder, after every pass.

Where the fact is in the first segment, one pass answers for all lengths: the question ends another draw of the last
segment, as in training, and doesn't stay. A fact that may be anywhere needs sequences of each length's own.

Dimensions: B lanes, L tokens of a segment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from experiments.long_context.feeds import answers
from experiments.long_context.options import Memory, Saved, read_run
from experiments.long_context.tasks import Lane, Task, TaskName
from experiments.long_context.train import answer_logits
from rmt_rl.analysis.process_memory import resident_mib
from rmt_rl.errors import UsageError, explained
from rmt_rl.files import write_atomically
from rmt_rl.language.model import RecurrentMemoryTransformer

FILE = "evaluation.json"
MANY = 256  # segments up to which the larger number of sequences is run
SEQUENCES, SEQUENCES_LONG = 64, 16  # of the table
SEED = 1_000_000  # far from those of training, though its text is another anyway


class Result(NamedTuple):
    """What one length gave.

    Attributes:
        segments: of a sequence.
        right: how many of its sequences' answers were right.
        sequences: how many there were.
        cpu_seconds: CPU time of the pass since the length before it in this pass (since its start for the first).
        tokens: that were read in this time, over all sequences.
        resident_mb: resident memory of the process at this length.
    """

    segments: int
    right: int
    sequences: int
    cpu_seconds: float
    tokens: int
    resident_mb: float


def main(
    runs: Positional[tuple[Path, ...]],
    longest: int = 4096,
    sequences: int = SEQUENCES,
    sequences_long: int = SEQUENCES_LONG,
    seed: int = SEED,
) -> None:
    """Test runs, on one thread.

    Args:
        runs: their folders.
        longest: segments, a power of two.
        sequences: of each length up to 256.
        sequences_long: of each length above.
        seed: of the sequences.
    """
    for name, value in (("runs", len(runs)), ("sequences", sequences), ("sequences_long", sequences_long)):
        if value < 1:
            raise UsageError(f"{name}: {value} given, 1 or more are needed")
    if longest < 1 or longest & (longest - 1):
        raise UsageError(f"longest={longest} must be a power of two")
    torch.set_num_threads(1)
    for run in runs:
        evaluate(run, longest, sequences, sequences_long, seed)


def evaluate(run: Path, longest: int, sequences: int, sequences_long: int, seed: int) -> list[Result]:
    """Test a run, print and write the results."""
    saved, results = read_run(run), []
    for lanes, lengths in passes(saved.options.task, saved.options.memory, longest, sequences, sequences_long):
        for result in read(saved, lanes, lengths, seed):
            print(f"{run}: {result}", flush=True)
            results.append(result)
            record = {
                "seed": seed,
                "longest": longest,
                "segment": saved.options.segment,
                "results": [one._asdict() for one in results],
            }
            write_atomically(run / FILE, (json.dumps(record, indent=1) + "\n").encode())
    return results


def passes(
    task: TaskName, memory: Memory, longest: int, sequences: int, sequences_long: int
) -> list[tuple[int, list[int]]]:
    """How many sequences to run, and at which lengths to ask, pass by pass."""
    lengths = [1 << power for power in range(longest.bit_length())]
    short, long = [each for each in lengths if each <= MANY], [each for each in lengths if each > MANY]
    if task == "memorise" and memory != "none":
        return [(sequences, short)] + ([(sequences_long, long)] if long else [])
    return [(sequences, [each]) for each in short] + [(sequences_long, [each]) for each in long]


@torch.inference_mode()
def read(saved: Saved, lanes: int, lengths: Sequence[int], seed: int) -> Iterator[Result]:
    """One pass over so many sequences, asked at these rising lengths; facts come within the first of them."""
    options = saved.options
    task = Task(options.task, "test", options.segment, saved.vocabulary)
    model, rng = saved.model().eval(), np.random.default_rng([seed, lengths[0]])
    drawn = [task.sequence(rng, lengths[0]) for _ in range(lanes)]
    ask = whole if options.memory == "none" else streamed
    began, before = time.process_time(), 0
    for length, right_B in ask(model, task, drawn, lengths, seed):
        now = time.process_time()
        tokens = (length - before) * lanes * options.segment
        yield Result(length, int(right_B.sum()), lanes, now - began, tokens, resident_mib())
        began, before = now, length


def streamed(
    model: RecurrentMemoryTransformer, task: Task, lanes: Sequence[Lane], lengths: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Lengths, and whether each sequence's answer is right (B,)."""
    state = model.initial_state(len(lanes))
    for number in range(lengths[-1]):
        if number + 1 in lengths:
            y_BLD, _ = model.run(_segment(task, lanes, number, True, seed), state)
            yield number + 1, _right(model, task, lanes, y_BLD)
        _, state = model.run(_segment(task, lanes, number, False, seed), state)


def whole(
    model: RecurrentMemoryTransformer, task: Task, lanes: Sequence[Lane], lengths: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """The same for a model that sees all segments at once, a few sequences at a time: its scores take much room."""
    for length in lengths:
        segments = [_segment(task, lanes, number, number == length - 1, seed) for number in range(length)]
        parts = torch.cat(segments, 1).split(max(1, 64 // length))
        y_B1D = torch.cat([model.run(part, model.initial_state(len(part)))[0][:, -1:] for part in parts])
        yield length, _right(model, task, lanes, y_B1D)


def _segment(task: Task, lanes: Sequence[Lane], number: int, ask: bool, seed: int) -> Tensor:
    """Follows from (seed, number, ask): what was asked before changes no sequence."""
    rng = np.random.default_rng([seed, number, int(ask)])
    questions = [lane.question for lane in lanes] if ask else None
    return torch.from_numpy(task.segment_batch(rng, lanes, [number] * len(lanes), questions))


def _right(model: RecurrentMemoryTransformer, task: Task, lanes: Sequence[Lane], y_BLD: Tensor) -> Tensor:
    logits_BA = answer_logits(model, y_BLD, torch.from_numpy(task.answers))
    return logits_BA.argmax(1) == answers([lane.question for lane in lanes])


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
