"""Progress of a training run and of an evaluation on the terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rmt_rl.analysis.markdown import bracketed
from rmt_rl.runs.evaluation import Evaluation

_NOTED = {
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "train/decisive_accuracy": "where decisive",
    "rollout/ep_rew_mean": "return",
    "rollout/success_rate": "success",
}


class TrainingProgress:
    """A bar with loss, accuracy and the like, and a line for each evaluation; called with (updates made, metrics)."""

    def __init__(self, title: str, updates: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),  # a folder's name may hold brackets
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self.title = title
        self.updates = updates
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.task is not None:
            self.progress.stop()

    def __call__(self, update: int, metrics: dict[str, float]) -> None:
        """Show how far the run is; the bar appears with the first update."""
        progress = self.progress
        if self.task is None:
            progress.start()
            self.task = progress.add_task(self.title, total=self.updates, completed=update, note="")
        progress.update(self.task, completed=update)
        note = _note(metrics)
        if note:
            progress.update(self.task, note=note)
        scores = _scores(metrics)
        if scores:
            progress.console.print(f"at {update}: {scores}", highlight=False)


def _note(metrics: dict[str, float]) -> str:
    """Return the figures beside the bar, such as `loss 0.1234  accuracy 0.9`."""
    parts = []
    for key, name in _NOTED.items():
        if key in metrics:
            parts.append(f"{name} {metrics[key]:.4g}")
    return "  ".join(parts)


def _scores(metrics: dict[str, float]) -> str:
    """Return the results of an evaluation, such as `success rate 0.950`; an empty text without one."""
    parts = []
    for key, value in metrics.items():
        group, _, name = key.partition("/")
        if group == "eval":
            words = name.replace("_", " ")
            parts.append(f"{words} {value:.3f}")
    return "  ".join(parts)


class EvaluationProgress:
    """Steps and episodes that an evaluation has made so far; called with (steps made, episodes finished).

    Shown on a terminal only, and gone once `hide` is called, since each result is printed in a line of its own.
    """

    INTERVAL = 0.25  # seconds between two looks; the loop makes thousands of steps in one

    def __init__(self, episodes: int | None) -> None:
        columns = TextColumn("{task.fields[steps]:,} steps"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes")
        console = Console(stderr=True)
        # Results go to standard output as they are, even while this is shown.
        self.progress = Progress(
            *columns,
            console=console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            disable=not console.is_interactive,
        )
        self.task = self.progress.add_task("", total=episodes, steps=0)
        self.shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hide()

    def __call__(self, steps: int, episodes: int) -> None:
        """Show the progress if it wasn't updated for a while."""
        now = time.monotonic()
        if now - self.shown < self.INTERVAL:
            return
        self.shown = now
        self.progress.start()
        self.progress.update(self.task, completed=episodes, steps=steps, refresh=True)

    def hide(self) -> None:
        """Remove the progress from the terminal, until the next call."""
        if self.progress.live.is_started:
            self.progress.stop()


def evaluation_line(evaluation: Evaluation) -> str:
    """Return one line: the varied options, success or return with its interval, length, time."""
    options = [f"{name}={value}" for name, value in evaluation.options.items()]
    what = " ".join(options) or "the training task"
    rate = evaluation.success_rate
    if rate is not None:
        score = f"success {rate:.2f}" + bracketed(evaluation.success_interval)
    else:
        score = f"return {evaluation.mean_return:.2f}"
    normalised = evaluation.normalised_return
    if normalised is not None:
        score += f", normalised {normalised:.2f}"
    count = len(evaluation.episodes)
    return f"{what}: {score}, {count} episodes of {evaluation.mean_length:.0f} steps, {evaluation.seconds:.1f} s"
