"""Trains one run: python -m experiments.long_context.train TASK --memory valve --out RUN.

The same command again continues a stopped run from where it was saved last, and reaches the same weights. A line of
`metrics.jsonl` has the means of the updates since the line before. Its accuracy is on training text, and that of
streams is at the ages that sequences happen to have: `evaluate` measures what a run can do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field

from experiments.long_context.feeds import Sequences, SequencesThenStreams, Streams
from experiments.long_context.options import Options, Run, read_run
from experiments.long_context.tasks import Task, TaskName
from rmt_rl.data.curriculum import Curriculum
from rmt_rl.errors import UsageError, explained
from rmt_rl.flags import parse
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.runs.metrics import Metrics, Report
from rmt_rl.runs.options import Schedule
from rmt_rl.training.loop import Loop, no_report
from rmt_rl.training.tokens import TokenFeed, TokenLearner, restore_weights


class Command(Options):
    """Trains one run of the long-context experiment."""

    task: Annotated[TaskName, tyro.conf.Positional] = Field(description="which task")
    out: Path = Field(description="folder of the run; a run that is there already is continued")


def main(arguments: Sequence[str]) -> None:
    """Train a run as a command line says, on one thread."""
    command = parse(Command, arguments, "python -m experiments.long_context.train", Command.__doc__ or "")
    torch.set_num_threads(1)
    train(Options.model_validate(command.model_dump(exclude={"out"})), command.out, print_line)


def print_line(update: int, metrics: Metrics) -> None:
    """Print what was logged of an update, if anything was."""
    if metrics:
        print(json.dumps({"update": update, **metrics}), flush=True)


def train(options: Options, out: Path, report: Report = no_report) -> TokenLearner:
    """Begin or continue a run, until its tokens are read; return its learner.

    Raises:
        UsageError: the folder holds a run of other options, or training diverged.
    """
    run = read_run(out) if path_of(out).exists() else None
    if run and run.options != options:
        raise UsageError(f"out={out} holds a run of other options; choose another folder or remove it")
    learner = make_learner(options, run)
    schedule = Schedule(options.log_every, options.save_every)
    loop = Loop(learner, out, schedule, origin=options.model_dump(mode="json"))
    if run:
        learner.start(run.checkpoint)
        loop.restore(run.checkpoint)
    else:
        learner.start()
    loop.run(report)
    return learner


def make_learner(options: Options, run: Run | None = None) -> TokenLearner:
    """Return the learner of a new run, or of one that is continued, before it is started.

    Raises:
        UsageError: the weights to begin with are of another model.
    """
    source = run or _source(options)
    task = Task(options.task, "train", options.segment, source.vocabulary if source else None)
    feed, answers = make_feed(options, task), torch.from_numpy(task.answers)
    learner = TokenLearner(options.model(), task.vocabulary, feed, options.training(), answers)
    if source:
        restore_weights(source.checkpoint, learner.model)
    return learner


def _source(options: Options) -> Run | None:
    """Return the run whose weights to begin with; None if there is none."""
    if options.start is None:
        return None
    source = read_run(Path(options.start))
    for name in ("memory", "width", "layers", "heads", "memory_tokens"):
        theirs, ours = getattr(source.options, name), getattr(options, name)
        if theirs != ours:
            raise UsageError(f"start={options.start} is a run of {name}={theirs}, not {ours}; choose the same")
    return source


def make_feed(options: Options, task: Task) -> TokenFeed:
    """Return what a run reads."""
    at_once = options.feed == "full"
    curriculum = Curriculum(
        first=options.segments if at_once else 1,
        last=options.segments,
        threshold=options.threshold,
        review=0.0 if at_once else options.review,
    )
    sequences = Sequences(task, options.lanes, options.seed, curriculum, joined=options.memory == "none")
    if options.feed != "streams":
        return sequences
    streams = Streams(task, options.lanes, options.seed, options.depths, options.reset, options.reset_wrong)
    return SequencesThenStreams(sequences, streams)


if __name__ == "__main__":
    with explained():
        main(sys.argv[1:])
