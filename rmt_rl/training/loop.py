"""The one training loop: until a run is done, advance its learner, log, evaluate, keep the best, save, and stop.

The loop knows no algorithm: it drives any `Learner`. `train` begins a run in a new folder, `resume` goes on with one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from signal import SIGTERM
from typing import Any

import numpy as np
from pydantic import JsonValue

from rmt_rl import signals
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.agent import BaseAgent
from rmt_rl.config import SavedState, validated
from rmt_rl.errors import UsageError
from rmt_rl.launch import is_first_process, prepare_data_parallel
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import Checkpoint, HeaderT, path_of, read_checkpoint
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.folder import check_new, check_origin, claimed, read_config, write_config
from rmt_rl.runs.init import origin_of_init, with_hash
from rmt_rl.runs.metrics import Log, Metrics, Report, Settings, check_loggers
from rmt_rl.runs.options import RunConfig, Schedule, learner_class
from rmt_rl.training.learner import AgentLearner, Diverged, Learner, Measured
from rmt_rl.training.measures import finite, read

MOST_UNREAD = 100  # updates whose metrics may wait on the device
Evaluate = Callable[[Any], Evaluation]
"""Evaluates the model, which must act."""
ShouldStop = Callable[[], bool]
"""Asked before every update; on True a checkpoint is saved and training ends early."""


def no_report(update: int, metrics: Metrics) -> None:
    """Report nothing."""


def never() -> bool:
    """Never stop early."""
    return False


def train(config: RunConfig, run: Path, report: Report = no_report, should_stop: ShouldStop = never) -> int:
    """Train an agent in a new folder.

    Args:
        config: the run.
        run: its folder, which must not hold a run yet.
        report: called after every update, or round of an online run, with the number made and whatever was logged.
        should_stop: asked before every update; on True a checkpoint is saved and training ends early.

    Returns:
        The number of updates made; of an online run the number of environment steps, in whole rounds, so it may be
        more than `total_timesteps`.

    Raises:
        UsageError: the data or the environment don't fit, the device can't do what an option asks for, the folder
            can't be written to, another process works in it, or training diverged.
    """
    with _alone(config, run):
        return _train(config, run, report, should_stop)


def _train(config: RunConfig, run: Path, report: Report, should_stop: ShouldStop) -> int:
    """Train an agent in a folder that is this run's alone."""
    first = is_first_process()  # further processes find the folder made
    if first:
        check_new(run)
    check_loggers(config.logger)
    cls: type[AgentLearner] = learner_class(config.agent, config.learner)
    config = with_hash(config)
    origin = _origin(cls, config)  # before anything else, as the environment's files may change meanwhile
    with closing(cls(config)) as learner:
        if first:
            remarks = learner.rehearse()
            write_config(config, run)
            _warn(remarks)
        learner.start()
        return _loop(config, run, learner, origin).run(report, should_stop)


def resume(run: Path, report: Report = no_report, should_stop: ShouldStop = never) -> int:
    """Go on with a run from its last checkpoint, or from its start if it had saved none yet.

    Its config may have changed meanwhile in what only says how training goes on, such as `updates` or
    `total_timesteps`, by which a run is prolonged; see `train` for the rest.

    Raises:
        UsageError: besides what `train` raises: the seed, agent, environment or data aren't those it was started with.
    """
    config = read_config(run).with_earlier()
    with _alone(config, run):
        return _resume(config, run, report, should_stop)


def _resume(config: RunConfig, run: Path, report: Report, should_stop: ShouldStop) -> int:
    """Go on with a run in a folder that is this run's alone."""
    check_loggers(config.logger)
    cls: type[AgentLearner] = learner_class(config.agent, config.learner)
    path = path_of(run)
    saved = read_checkpoint(path) if path.exists() else None
    if saved is None:
        config = with_hash(config)  # the run begins again, with the same weights
    origin = _origin(cls, config)
    if saved:  # before anything else, since opening the data may collect others
        check_origin(run, validated(LoopState, saved.header.progress).origin, origin)
    with closing(cls(config, saved)) as learner:
        learner.start(saved)
        loop = _loop(config, run, learner, origin)
        if saved:
            loop.restore(saved)
        del saved  # its tensors, which are copied by now
        return loop.run(report, should_stop)


def _origin(cls: type[AgentLearner], config: RunConfig) -> dict[str, JsonValue]:
    """Return what must be the same when a run is resumed."""
    return cls.origin(config) | origin_of_init(config)


def _alone(config: RunConfig, run: Path) -> AbstractContextManager[None]:
    """Return a context in which no other run works in a folder; the first of the run's processes holds the lock."""
    if config.devices * config.num_nodes > 1:
        prepare_data_parallel(config.devices, config.num_nodes)
    return claimed(run) if is_first_process() else nullcontext()


def _loop(config: RunConfig, run: Path, learner: AgentLearner, origin: dict[str, JsonValue]) -> Loop:
    evaluation = _evaluation(config)
    settings = config.model_dump(mode="json", exclude_none=True)
    return Loop(learner, run, config.schedule, origin, evaluation, config.logger, settings)


def _evaluation(config: RunConfig) -> Evaluate | None:
    """Return the evaluation during training, in the training task; None if the run has none."""
    options = config.evaluation
    if not options.eval_episodes:
        return None
    task = load_task(config.env)

    def evaluation(agent: BaseAgent) -> Evaluation:
        return evaluate(
            agent,
            task,
            config.env_options,
            options.eval_episodes,
            options.eval_seed,
            target_return=agent.target_return(None),
        )

    return evaluation


class LoopState(SavedState):
    """The loop's part of a checkpoint, beside the learner's progress."""

    best: float | None = None  # score of the best evaluation
    unlogged: tuple[Metrics, ...] = ()  # of the updates since the last line of metrics
    origin: dict[str, JsonValue] | None = None  # what must be the same when the run is resumed
    made_before: int | None = None  # updates before the last one, if its evaluation is still to be made


class Loop:
    """A learner's run in a folder.

    Args:
        learner: ready for its next update.
        run: the folder.
        schedule: how often to log, save and evaluate.
        origin: what must be the same when the run is resumed.
        evaluate: evaluates the model; None if the run isn't evaluated.
        loggers: names of loggers besides `metrics.jsonl`.
        settings: the run's config, for loggers that keep it.
    """

    def __init__(
        self,
        learner: Learner,
        run: Path,
        schedule: Schedule,
        origin: dict[str, JsonValue],
        evaluate: Evaluate | None = None,
        loggers: Sequence[str] = (),
        settings: Settings | None = None,
    ) -> None:
        self.learner, self.folder, self.schedule, self.evaluate = learner, run, schedule, evaluate
        self.loggers, self.settings = loggers, settings or {}
        self.origin = origin
        self.evaluated: Evaluation | None = None  # the last evaluation
        self.best: float | None = None  # score of the best one
        self.unlogged: list[Metrics] = []  # of the updates since the last line of metrics
        self.unread: list[tuple[int, Measured]] = []  # numbers and metrics of the last updates, still on the device
        self.saved: int | None = None  # the update of the last checkpoint
        self.made_before: int | None = None  # updates before the last one, while its evaluation is still to be made

    def restore(self, saved: Checkpoint[HeaderT]) -> None:
        """Go on from a checkpoint, which the learner has been started with."""
        before = validated(LoopState, saved.header.progress)
        self.best, self.unlogged = before.best, list(before.unlogged)
        self.saved = saved.header.update
        self.made_before = before.made_before

    def run(self, report: Report = no_report, should_stop: ShouldStop = never) -> int:
        """Make what is left of the run; return the number of updates made in all."""
        learner = self.learner
        stopped = False
        with signals.deferred(), self._open_log() as log:
            while self._is_unfinished and not learner.processes.any(stopped or should_stop()):
                try:
                    metrics = self._make_update(log)
                except signals.Stopped:
                    stopped = True  # other processes learn of it in the loop's condition
                    continue
                if learner.processes.first:
                    report(learner.made, metrics)
            if stopped or self.saved != learner.made:
                self.save()
        if learner.done and learner.processes.first:
            _warn(learner.remarks(self.evaluated))
        return learner.made

    @property
    def _is_unfinished(self) -> bool:
        return self.made_before is not None or not self.learner.done

    def _make_update(self, log: Log | None) -> Metrics:
        """Make an update; then log, evaluate and save what is due. Return what was logged.

        Raises:
            Stopped: a signal stopped the evaluation, which is made first when the run is resumed; or a round of an
                online learner, which is then as it was before.
        """
        learner = self.learner
        if self.made_before is None:
            before = learner.made
            measured = self._advance()
            self.unread.append((learner.made, measured))
            self.made_before = before
        before = self.made_before
        if self._must_read(before):
            self._read()
        try:
            evaluation = self._evaluate() if self._due(self.schedule.evaluate_every, before) else {}
        except signals.Stopped:
            raise
        except BaseException:
            self.made_before = None  # a resumed run goes on without an evaluation that fails
            try:
                self._log(log, before, {})
            finally:
                if learner.processes.alone:  # saving waits for all processes
                    self.save()
            raise
        self.made_before = None
        metrics = self._log(log, before, evaluation)
        if self._due(self.schedule.save_every, before):
            self.save()
        return metrics

    def _must_read(self, before: int) -> bool:
        """Return True if the metrics since `before` are due, or weights that must be finite, or too many to keep."""
        schedule = self.schedule
        intervals = [schedule.log_every, schedule.save_every]
        if self.evaluate is not None:
            intervals.append(schedule.evaluate_every)
        return len(self.unread) >= MOST_UNREAD or any(self._due(every, before) for every in intervals)

    def _read(self) -> None:
        """Read and check the metrics that are still on the device."""
        unread, self.unread = self.unread, []
        metrics = read([measured for _, measured in unread])
        for (update, _), entry in zip(unread, metrics, strict=True):
            try:
                self.learner.check(update, entry)
            except Diverged as error:
                raise self._explained(error) from None
            self.unlogged.append(finite(entry))

    def _log(self, log: Log | None, before: int, evaluation: Metrics) -> Metrics:
        """Write a line of metrics if one is due, or if there are results of an evaluation; return the metrics."""
        metrics = self._means() | self.learner.totals() if self._due(self.schedule.log_every, before) else {}
        metrics |= evaluation
        if log and metrics:
            log.write(self.learner.made, metrics)
        return metrics

    def _open_log(self) -> AbstractContextManager[Log | None]:
        if not self.learner.processes.first:
            return nullcontext()
        return closing(Log(self.folder, self.learner.made, self.loggers, self.settings))

    def _due(self, every: int, before: int) -> bool:
        """Return whether a multiple of `every` was reached since `before` updates, or the end."""
        return self.learner.made // every > before // every or self.learner.done

    def _advance(self) -> Measured:
        try:
            return self.learner.advance()
        except Diverged as error:
            raise self._explained(error) from None

    def _explained(self, error: Diverged) -> UsageError:
        kept = path_of(self.folder)
        where = f"the last good checkpoint is {kept}" if kept.exists() else "no checkpoint had been saved yet"
        return UsageError(f"{error}; {where}. {self.learner.remedy}")

    def _means(self) -> Metrics:
        """Return the means of what was measured since the last line of metrics."""
        entries, self.unlogged = self.unlogged, []
        keys = dict.fromkeys(key for entry in entries for key in entry)
        return {key: float(np.mean([entry[key] for entry in entries if key in entry])) for key in keys}

    def _evaluate(self) -> Metrics:
        """Evaluate and keep the best model. Every process does, so that none waits for another."""
        if self.evaluate is None:
            return {}
        processes = self.learner.processes
        agent = processes.whole(self.learner.model)
        result = stopped = None
        try:
            with signals.interruptible():
                result = self.evaluate(agent)
        except signals.Stopped as signal:
            stopped = signal
        if processes.any(stopped is not None):  # in all processes or in none, as saving may need all
            raise stopped or signals.Stopped(SIGTERM)
        assert result is not None
        self.evaluated = result
        is_best = self.best is None or result.score >= self.best
        if processes.any(is_best and processes.first):
            self.best = result.score
            self._write("best", {})
        return result.metrics

    def save(self) -> None:
        """Save all that resuming needs."""
        self._read()
        state = LoopState(
            best=self.best, unlogged=tuple(self.unlogged), origin=self.origin, made_before=self.made_before
        )
        progress = state.model_dump(mode="json") | self.learner.progress()
        self._write("last", progress, *self.learner.resumable())
        self.learner.confirm()
        self.learner.processes.wait()  # so that each finds the checkpoint
        self.saved = self.learner.made

    def _write(self, name: str, progress: dict[str, JsonValue], *resumable: Any) -> None:
        learner = self.learner
        processes = learner.processes
        if not processes.all_finite(learner.model):
            raise self._explained(Diverged(f"the weights are NaN or infinite after update {learner.made}"))
        processes.save(path_of(self.folder, name), learner.header(progress), learner.model, *resumable)


def _warn(remarks: list[str]) -> None:
    for remark in remarks:
        warnings.warn(remark, UserWarning, stacklevel=3)
