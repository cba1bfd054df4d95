"""A search by Optuna: its sampler draws options, its pruner stops bad trials, and a journal keeps all of it.

A search that was stopped goes on: trials that were under way keep their options, and their runs are resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rmt_rl.errors import UsageError
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.loggers.jsonl import METRICS, read_line
from rmt_rl.statistics import mean
from rmt_rl.sweeps.engine import Engine, Job, Outcome
from rmt_rl.sweeps.matrix import SweepConfig, make_cell
from rmt_rl.sweeps.mirror import Mirror
from rmt_rl.sweeps.run import INTERVAL, Report, due_of, job_of
from rmt_rl.sweeps.space import Range, SearchConfig
from rmt_rl.sweeps.state import check_same_config

JOURNAL = "search.journal"
_NAME = "search"
_PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
}


class Search:
    """The trials of a search.

    Args:
        sweep: environments, agents, seeds and further options of every trial, and the search.
        own: the folder of the sweep's own files.
        modules: modules that runs import first.
        trust_spec: let files give environments any arguments.
        mirror: the copies of runs that are kept at a URL, where the journal is kept too; None without a URL.
    """

    def __init__(
        self, sweep: SweepConfig, own: Path, modules: Sequence[str], trust_spec: bool, mirror: Mirror | None = None
    ) -> None:
        assert sweep.search is not None
        self.config: SearchConfig = sweep.search
        self._mirror = mirror
        if mirror is not None:
            mirror.fetch(JOURNAL)
        self.sweep, self.modules, self.trust_spec = sweep, modules, trust_spec
        self.study = _study(self.config, own)
        self.space = {name: _distribution(values) for name, values in self.config.options.items()}
        self._settings = list(product(sweep.envs, sweep.agents, sweep.seeds))
        self._jobs: dict[int, list[Job]] = {}  # of the trials under way, by number
        self._waiting: dict[str, int] = {}  # the trial of every job that has no outcome yet
        self._failed: list[Outcome] = []
        self._pruned: set[int] = set()
        self._spoilt: set[int] = set()  # trials of which a run failed

    @property
    def cells(self) -> int:
        """The number of runs of all trials."""
        return self.config.trials * len(self._settings)

    def run(self, engine: Engine, report: Report) -> list[Outcome]:
        """Work on trials until there are as many as wanted; return the outcomes of runs that failed."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._begin(optuna.trial.Trial(self.study, trial._trial_id), engine, report)
        while self._fill(engine, report) or self._waiting:
            for outcome in engine.poll(INTERVAL):
                self._end(outcome, report)
            self._prune(engine)
            report.under_way(engine.running() & self._waiting.keys())
        return self._failed

    def summary(self) -> str:
        """Return a line about the best trial."""
        finished = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not finished:
            return "no trial has ended well"
        best = self.study.best_trial
        options = ", ".join(f"{name}={value}" for name, value in _values(best.params).items())
        return f"best of {len(finished)}: trial {best.number}, {self.config.metric} {best.value:.4g}, with {options}"

    def _fill(self, engine: Engine, report: Report) -> bool:
        """Begin trials as long as there is room; return True if there was one to begin."""
        has_begun = False
        while len(self.study.get_trials(deepcopy=False)) < self.config.trials and len(self._waiting) < engine.capacity:
            self._begin(self.study.ask(self.space), engine, report)
            has_begun = True
        return has_begun

    def _begin(self, trial: optuna.trial.Trial, engine: Engine, report: Report) -> None:
        number = trial.number
        try:
            jobs = self._jobs_of(number, _values(trial.params))
        except UsageError:
            self.study.tell(number, state=TrialState.FAIL)  # so that it isn't tried again
            raise
        self._keep_journal()  # before a run has the name of a trial that the journal might lose
        self._jobs[number] = jobs
        due = due_of(jobs, report)
        self._waiting |= {job.name: number for job in due}
        if due:
            engine.submit(due)
        else:
            self._tell(number)

    def _jobs_of(self, number: int, values: dict[str, Any]) -> list[Job]:
        """Return the jobs of a trial.

        Raises:
            UsageError: the values don't fit the environment or agent, or a folder holds another run.
        """
        jobs = []
        for env, agent, seed in self._settings:
            cell = make_cell(self.sweep, env, agent, values, seed, named_by={"trial": number})
            job = job_of(cell, self.sweep, self.modules, self.trust_spec)
            check_same_config(job.run, cell.config)
            jobs.append(job)
        return jobs

    def _end(self, outcome: Outcome, report: Report) -> None:
        number = self._waiting.pop(outcome.name)
        (job,) = [job for job in self._jobs[number] if job.name == outcome.name]
        report.ended(job, outcome)
        if not outcome.is_done and number not in self._pruned:
            self._failed.append(outcome)
            self._spoilt.add(number)
        if number not in self._waiting.values():
            self._tell(number)

    def _tell(self, number: int) -> None:
        """Tell the study how a trial ended."""
        jobs = self._jobs.pop(number)
        if number in self._pruned:
            self.study.tell(number, state=TrialState.PRUNED)
        elif number in self._spoilt:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            if self._mirror is not None:
                self._mirror.catch_up()
            scores = [_final(job.run, self.config.metric) for job in jobs]
            self.study.tell(number, mean(scores))
        self._keep_journal()

    def _keep_journal(self) -> None:
        if self._mirror is not None:
            self._mirror.keep(JOURNAL)

    def _prune(self, engine: Engine) -> None:
        """Report new values of trials under way, and stop those that the pruner gives up."""
        if self.config.pruner == "none":
            return
        under_way = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
        for number in self._jobs.keys() - self._pruned:
            known = under_way[number].intermediate_values
            trial = optuna.trial.Trial(self.study, under_way[number]._trial_id)
            curves = [_curve(job.run, self.config.metric) for job in self._jobs[number]]
            for step in sorted(set.intersection(*map(set, curves)) - known.keys()):
                trial.report(mean([curve[step] for curve in curves]), step)
            if trial.should_prune():
                self._pruned.add(number)
                for job in self._jobs[number]:
                    engine.stop(job.name)


def _study(config: SearchConfig, own: Path) -> optuna.Study:
    """Open the journal, or make it; return its study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(own / JOURNAL)))
    study = optuna.create_study(
        storage=storage,
        pruner=_PRUNERS[config.pruner](),
        study_name=_NAME,
        direction=config.direction,
        load_if_exists=True,
    )
    seed = (config.seed + len(study.get_trials(deepcopy=False))) % 2**32  # other draws when a search goes on
    study.sampler = _sampler(config.sampler, seed)
    return study


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    samplers: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "tpe": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
    }
    return samplers[name](seed=seed)


def _distribution(values: Range) -> BaseDistribution:
    if values.choices:
        return CategoricalDistribution([json.dumps(choice) for choice in values.choices])
    low, high = values.low, values.high
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=values.log)
    assert low is not None
    assert high is not None
    return FloatDistribution(low, high, log=values.log)


def _values(params: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a trial; choices are kept as JSON."""
    return {name: json.loads(value) if isinstance(value, str) else value for name, value in params.items()}


def _curve(run: Path, metric: str) -> dict[int, float]:
    """Return the values of a run's metric so far, by update."""
    path = run / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    curve = {}
    for update, metrics in map(read_line, filter(_is_whole, lines)):
        if metric in metrics:
            curve[update] = metrics[metric]
    return curve


def _is_whole(line: str) -> bool:
    return line.endswith("\n")


def _final(run: Path, metric: str) -> float:
    """Return the score of a finished run.

    Raises:
        UsageError: the run has no such metric.
    """
    if "/" in metric:
        values: Iterable[Any] = [value for _, value in sorted(_curve(run, metric).items())][-1:]
    else:
        values = [result.get(metric) for result in read_results(run)]
    found = [float(value) for value in values if value is not None]
    if not found:
        raise UsageError(
            f"metric={metric}: {run} has none; name one of its metrics.jsonl, or success_rate or mean_return of the "
            "sweep's evaluations"
        )
    return mean(found)
