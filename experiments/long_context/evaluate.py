"""Tests a run on fresh sequences of 1, 2, 4 ... segments: python -m experiments.long_context.evaluate RUN.

A sequence streams through the model once. Nothing is kept of a segment but the state. The filler is that of the test
part. Writes `evaluation.json` into the run's folder, after every pass.

If the fact is in the first segment, one pass answers for all lengths: the question ends another draw of the last
segment, as in training, and isn't part of the sequence. A fact that may be anywhere needs sequences for each length.

Dimensions: B sequences, L tokens of a segment, D width, A answers to choose from.
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
from experiments.long_context.options import Memory, Run, read_run
from experiments.long_context.tasks import Task, TaskName, TaskSequence
from rmt_rl.analysis.process_memory import resident_mib
from rmt_rl.errors import UsageError, explained
from rmt_rl.files import write_atomically
from rmt_rl.language.model import RecurrentMemoryTransformer

FILE = "evaluation.json"
MANY = 256  # segments up to which the larger number of sequences is run
SEQUENCES, SEQUENCES_LONG = 64, 16  # of the table
SEED = 1_000_000  # far from those of training, though its text is another anyway
AT_ONCE = 64  # segments in memory when a model reads whole sequences


class Result(NamedTuple):
    """The result at one length.

    Attributes:
        segments: length of the sequences.
        right: sequences whose question was answered right.
        sequences: all sequences.
        cpu_seconds: CPU time of the pass since the length before it in this pass (since its start for the first).
        tokens: tokens read in this time, over all sequences.
        resident_mb: resident memory of the process at this length.
    """

    segments: int
    right: int
    sequences: int
    cpu_seconds: float
    tokens: int
    resident_mb: float


class Pass(NamedTuple):
    """So many sequences, asked at these rising lengths."""

    sequences: int
    lengths: list[int]


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
        longest: most segments of a sequence, a power of two.
        sequences: sequences for each length up to 256.
        sequences_long: sequences for each greater length.
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


def evaluate(folder: Path, longest: int, sequences: int, sequences_long: int, seed: int) -> list[Result]:
    """Test the run of a folder; print, write and return the results."""
    run = read_run(folder)
    options = run.options
    results: list[Result] = []
    for count, lengths in passes(options.task, options.memory, longest, sequences, sequences_long):
        for result in read(run, count, lengths, seed):
            print(f"{folder}: {result}", flush=True)
            results.append(result)
            record = {
                "seed": seed,
                "longest": longest,
                "segment": options.segment,
                "results": [one._asdict() for one in results],
            }
            write_atomically(folder / FILE, (json.dumps(record, indent=1) + "\n").encode())
    return results


def passes(task: TaskName, memory: Memory, longest: int, sequences: int, sequences_long: int) -> list[Pass]:
    """Return all passes up to the longest sequences."""
    lengths = [1 << power for power in range(longest.bit_length())]
    short = [length for length in lengths if length <= MANY]
    long = [length for length in lengths if length > MANY]
    if task == "memorise" and memory != "none":
        return [Pass(sequences, short)] + ([Pass(sequences_long, long)] if long else [])
    return [Pass(sequences, [length]) for length in short] + [Pass(sequences_long, [length]) for length in long]


@torch.inference_mode()
def read(run: Run, count: int, lengths: Sequence[int], seed: int) -> Iterator[Result]:
    """Make a pass over `count` sequences, asked at these rising lengths; facts come within the first of them."""
    options, model = run.options, run.model()
    task = Task(options.task, "test", options.segment, run.vocabulary)
    rng = np.random.default_rng([seed, lengths[0]])
    sequences = [task.sequence(rng, lengths[0]) for _ in range(count)]
    ask = whole if options.memory == "none" else streamed
    began, before = time.process_time(), 0
    for length, right_B in ask(model, task, sequences, lengths, seed):
        now = time.process_time()
        tokens = (length - before) * count * options.segment
        yield Result(length, int(right_B.sum()), count, now - began, tokens, resident_mib())
        began, before = now, length


def streamed(
    model: RecurrentMemoryTransformer, task: Task, sequences: Sequence[TaskSequence], lengths: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield each length, and whose answers are right there, bool (B,)."""
    state = model.initial_state(len(sequences))
    for number in range(lengths[-1]):
        if number + 1 in lengths:
            y_BLD, _ = model.run(_segment(task, sequences, number, True, seed), state)
            yield number + 1, _right(model, task, sequences, y_BLD)
        _, state = model.run(_segment(task, sequences, number, False, seed), state)


def whole(
    model: RecurrentMemoryTransformer, task: Task, sequences: Sequence[TaskSequence], lengths: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the same for a model that reads all segments at once.

    Few sequences are read at a time, since their attention scores take much memory.
    """
    for length in lengths:
        segments = [_segment(task, sequences, number, number == length - 1, seed) for number in range(length)]
        last = []
        for part in torch.cat(segments, 1).split(max(1, AT_ONCE // length)):
            y_BLD, _ = model.run(part, model.initial_state(len(part)))
            last.append(y_BLD[:, -1:])
        yield length, _right(model, task, sequences, torch.cat(last))


def _segment(task: Task, sequences: Sequence[TaskSequence], number: int, ask: bool, seed: int) -> Tensor:
    """Return a segment that follows from (seed, number, ask), so that earlier questions change no sequence."""
    rng = np.random.default_rng([seed, number, int(ask)])
    questions = [sequence.question for sequence in sequences] if ask else None
    return torch.from_numpy(task.segment_batch(rng, sequences, [number] * len(sequences), questions))


def _right(model: RecurrentMemoryTransformer, task: Task, sequences: Sequence[TaskSequence], y_BLD: Tensor) -> Tensor:
    logits_BV: Tensor = model.head(y_BLD[:, -1])
    logits_BA = logits_BV[:, torch.from_numpy(task.answers)]
    return logits_BA.argmax(1) == answers([sequence.question for sequence in sequences])


if __name__ == "__main__":
    with explained():
        tyro.cli(main)
