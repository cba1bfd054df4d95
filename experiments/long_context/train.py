"""Trains one run: python -m experiments.long_context.train TASK --memory valve --out RUN.

The same command again goes on where a stopped run was saved last, to the same weights. `metrics.jsonl` has the means of
the updates since the line before; accuracy there is on training text, and of streams at the ages that lanes happen to
have: `evaluate` tells what a run can do.

Dimensions: B lanes, L tokens of a segment, D width, A answers to choose from.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic import Field
from torch import Tensor

from experiments.long_context.feeds import Batch, Feed, Sequences, SequencesThenStreams, Streams
from experiments.long_context.options import FILE, Options, Saved, new_model, read_run, save_run
from experiments.long_context.tasks import Task, TaskName
from rmt_rl import backprop
from rmt_rl.data.curriculum import Curriculum
from rmt_rl.errors import UsageError, explained
from rmt_rl.flags import parse
from rmt_rl.recurrence import Tree, detach, tree_fill, where_lanes
from rmt_rl.runs.options import LearningRateConfig
from rmt_rl.runs.tensors import fill_optimizer
from rmt_rl.training.optimization import learning_rate


class Command(Options):
    """Trains one run of the long-context experiment."""

    task: Annotated[TaskName, tyro.conf.Positional] = Field(description="which task")
    out: Path = Field(description="folder of the run; one that is there already is gone on with")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    command = parse(Command, arguments, "python -m experiments.long_context.train", Command.__doc__ or "")
    torch.set_num_threads(1)
    options = Options.model_validate(command.model_dump(exclude={"out"}))
    Trainer(options, command.out).run_updates(print_line=True)


class Trainer:
    """The loop, and what it carries from update to update."""

    def __init__(self, options: Options, run: Path) -> None:
        torch.manual_seed(options.seed)
        self.options, self.run = options, run
        saved = read_run(run) if (run / FILE).exists() else None
        if saved and saved.options != options:
            raise UsageError(f"out={run} holds a run of other options; choose another folder or remove it")
        source = saved or (_source(Path(options.start), options) if options.start else None)
        self.task = Task(options.task, "train", options.segment, source.vocabulary if source else None)
        self.answers = torch.from_numpy(self.task.answers)
        self.model = new_model(options, len(self.task.vocabulary))
        if source:
            self.model.load_state_dict(source.group("model"))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), options.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.schedule = LearningRateConfig(  # whose updates are parts of the budget
            updates=10_000,
            learning_rate=options.learning_rate,
            warmup=100,
            decay_from=options.decay_from,
            final_rate=0.02,
        )
        self.feed = _feed(options, self.task)
        self.carried = detach(self.model.initial_state(options.lanes))
        self.update, self.tokens, self.cpu_seconds = 0, 0, 0.0
        self.unlogged: list[dict[str, float]] = []
        if saved:
            self._restore(saved)

    def _restore(self, saved: Saved) -> None:
        fill_optimizer(self.optimizer, saved.group("optimizer"))
        leaves = saved.group("state")
        self.carried = tree_fill(self.carried, (leaves[str(index)] for index in range(len(leaves))))
        self.update, self.tokens = saved.progress["update"], saved.progress["tokens"]
        self.cpu_seconds, self.unlogged = saved.progress["cpu_seconds"], saved.progress["unlogged"]
        self.feed.restore(saved.progress["feed"])

    def run_updates(self, print_line: bool = False) -> None:
        """Train until the budget is spent."""
        metrics = self.run / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        kept = [line for line in lines if json.loads(line)["update"] <= self.update]
        self.run.mkdir(parents=True, exist_ok=True)
        with metrics.open("w") as log:
            log.writelines(line + "\n" for line in kept)
            while self.tokens < self.options.tokens:
                began = time.process_time()
                self.unlogged.append(self._update())
                self.cpu_seconds += time.process_time() - began
                done = self.tokens >= self.options.tokens
                if done or self.update % self.options.log_every == 0:
                    line = json.dumps(self._line())
                    print(line, file=log, flush=True)
                    if print_line:
                        print(line, flush=True)
                if done or self.update % self.options.save_every == 0:
                    self._save()

    def _line(self) -> dict[str, float]:
        entries, self.unlogged = self.unlogged, []
        means = {key: round(float(np.mean([entry[key] for entry in entries])), 4) for key in entries[0]}
        return {"update": self.update, "tokens": self.tokens, "cpu_seconds": round(self.cpu_seconds, 1)} | means

    def _save(self) -> None:
        progress = {
            "update": self.update,
            "tokens": self.tokens,
            "cpu_seconds": self.cpu_seconds,
            "unlogged": self.unlogged,
            "feed": self.feed.state(),
        }
        save_run(self.run, self.options, self.task.vocabulary, self.model, self.optimizer, self.carried, progress)

    def _update(self) -> dict[str, float]:
        """One optimiser step; returns what to log."""
        batch = self.feed.batch(self.update)
        if self.options.memory == "none":
            batch = batch._replace(segments=(torch.cat(batch.segments, 1),))
        loss, right_B = self._backpropagate(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise UsageError(f"the gradient is {float(norm)} at update {self.update + 1}; try a lower --learning-rate")
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        self.feed.learn(self.update, right_B)
        self.update += 1
        self.tokens += sum(segment.numel() for segment in batch.segments)
        asked = batch.asked_B.sum().clamp(min=1)
        accuracy = float((right_B & batch.asked_B).sum() / asked)
        return {"loss": float(loss), "accuracy": accuracy} | self.feed.measures()

    def _rate(self) -> float:
        """The learning rate, by the share of the budget that is spent."""
        return learning_rate(self.schedule, self.schedule.updates * self.tokens // self.options.tokens)

    def _backpropagate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of the lanes asked, and whose answers are right; the state before the question is carried."""
        right_B = torch.zeros_like(batch.asked_B)
        last = len(batch.segments) - 1

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            y_BLD, following = self.model.run(batch.segments[index], state)
            if index < last:
                return y_BLD.new_zeros(()), following
            logits_BA = answer_logits(self.model, y_BLD, self.answers)
            right_B.copy_(logits_BA.argmax(1) == batch.answers_B)
            losses_B = F.cross_entropy(logits_BA, batch.answers_B, reduction="none")
            return (losses_B * batch.asked_B).sum() / batch.asked_B.sum().clamp(min=1), state

        self.model.train()
        self.optimizer.zero_grad()
        begun = where_lanes(batch.fresh_B, self.model.initial_state(len(batch.fresh_B)), self.carried)
        loss, self.carried = backprop.full(step, last + 1, begun, Tensor.backward)
        return loss, right_B


def answer_logits(model: Any, y_BLD: Tensor, answers_A: Tensor) -> Tensor:
    """Logits (B, A) of the words that may be the answer, at the question's last place."""
    logits: Tensor = model.head(y_BLD[:, -1])[:, answers_A]
    return logits


def _source(start: Path, options: Options) -> Saved:
    """The run to begin with the weights of."""
    source = read_run(start)
    for name in ("memory", "width", "layers", "heads", "memory_tokens"):
        theirs, ours = getattr(source.options, name), getattr(options, name)
        if theirs != ours:
            raise UsageError(f"start={start} is a run of {name}={theirs}, not {ours}; choose the same")
    return source


def _feed(options: Options, task: Task) -> Feed:
    first = options.segments if options.feed == "full" else 1
    review = 0.0 if options.feed == "full" else options.review
    curriculum = Curriculum(first=first, last=options.segments, threshold=options.threshold, review=review)
    sequences = Sequences(task, options.lanes, options.seed, curriculum)
    if options.feed != "streams":
        return sequences
    streams = Streams(task, options.lanes, options.seed, options.depths, options.reset, options.reset_wrong)
    return SequencesThenStreams(sequences, streams)


if __name__ == "__main__":
    with explained():
        main(sys.argv[1:])
