"""Runs grouped by config, and their means with intervals over seeds."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rmt_rl.analysis.run_records import EvaluatedSetting, OptionValues, RunRecord, Score, is_number, read_run
from rmt_rl.errors import UsageError
from rmt_rl.numbers import LARGEST_RESULT
from rmt_rl.statistics import Interval, mean, mean_interval

INTERVALS_OVER = "mean and 95% interval over n seeds (of a single seed: over its episodes)"

UNASKED = (None, 0, "auto")  # weights of the hindsight loss that no one asked for
_UPDATE = re.compile("[0-9]{1,19}")

Value: TypeAlias = int | float | str
"""A value of a varied option: a number, or the text of anything else."""


@dataclass(frozen=True)
class Group:
    """Runs of one config, which differ in their seed."""

    label: str
    runs: Sequence[RunRecord]

    @property
    def unit(self) -> str:
        """Return the unit of the runs' length, see `RunConfig.unit`."""
        return self.runs[0].unit

    def has(self, metric: str) -> bool:
        """Tell whether any run logged a metric."""
        return any(metric in run.metrics for run in self.runs)


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds; the 95% interval of a single seed is that of its episodes, where known."""

    mean: float
    interval: Interval | None
    count: int


Row: TypeAlias = dict[Value, Estimate]
"""Estimates by the varied option's value."""

Cells: TypeAlias = Mapping[str, Row]
"""Estimates by label, then by the varied option's value."""

ScoresByValue: TypeAlias = dict[Value, list[Score]]
"""Scores of all seeds by the varied option's value."""


def read_groups(folders: Iterable[Path]) -> list[Group]:
    """Read runs, each folder once, and group them as `group_runs` does.

    Raises:
        UsageError: there is no run, a folder holds none, or two are of the same config and seed.
    """
    different: dict[Path, Path] = {}
    for folder in folders:
        different[folder.resolve()] = folder
    if not different:
        raise UsageError("no runs were given; name folders that `rmt-rl train` made")
    runs = map(read_run, different.values())
    groups = group_runs(runs)
    for group in groups:
        _warn_of_differences(group)
    return groups


def group_runs(runs: Iterable[RunRecord]) -> list[Group]:
    """Group runs that differ only in their seeds, in the order given.

    The label of a group is its agent and the settings in which it differs from other groups of that agent.

    Raises:
        UsageError: two runs are of the same config and seed.
    """
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        key = json.dumps(run.settings, sort_keys=True, default=str)
        members.setdefault(key, []).append(run)
    groups = list(members.values())
    settings = []
    for group in groups:
        _check_seeds_differ(group)
        settings.append(group[0].settings)
    labels = _labels(settings)
    return list(map(Group, labels, groups))


def _check_seeds_differ(runs: Iterable[RunRecord]) -> None:
    """Raise an error if a seed occurs twice, which would make an interval over seeds too narrow."""
    seen: dict[int, Path] = {}
    for run in runs:
        seed = run.seed
        if seed in seen:
            both = f"{seen[seed]} and {run.path}"
            raise UsageError(f"{both} are of the same config and the same seed, {seed}; leave one out")
        seen[seed] = run.path


# Warnings


def _warn_of_differences(group: Group) -> None:
    """Warn of runs that were evaluated in different ways, or before they were finished."""
    first_with: dict[str, Path] = {}
    for run in group.runs:
        if run.checkpoint is not None and run.evaluations:
            way = _way_of_evaluation(run)
            first_with.setdefault(way, run.path)
            _warn_of_later_training(run)
    if len(first_with) > 1:
        way, other_way, *_ = first_with
        path = first_with[way]
        other_path = first_with[other_way]
        _warn(
            f"{group.label}: {path} was evaluated with {way}, but {other_path} with {other_way}; evaluate them alike",
        )


def _way_of_evaluation(run: RunRecord) -> str:
    """Return the settings of a run's evaluation that other seeds must share, as a text.

    The target return may differ, since it follows from each run's own data.
    """
    checkpoint, _ = _evaluated(run)
    first = run.evaluations[0]
    settings = [f"checkpoint={checkpoint}"]
    for name, value in first.made_with.items():
        if name != "target_return":
            settings.append(f"{name}={value}")
    return ", ".join(settings)


def _warn_of_later_training(run: RunRecord) -> None:
    checkpoint, update = _evaluated(run)
    if checkpoint != "last" or not _UPDATE.fullmatch(update):
        return
    curves = run.metrics.values()
    newest = max(map(max, curves), default=0)
    if int(update) < newest:
        _warn(
            f"{run.path} was evaluated at {run.unit} {update} "
            f"and has been trained to {newest} since; evaluate it again",
        )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)


def _evaluated(run: RunRecord) -> tuple[str, str]:
    """Split `last, update 500` into the checkpoint's name and its update."""
    text = run.checkpoint or ""
    checkpoint, _, update = text.partition(", update ")
    return checkpoint, update


# Labels


def _labels(settings: Sequence[OptionValues]) -> list[str]:
    """Name each group by its agent, and by the settings in which groups of that agent differ, its env if any do."""
    differ_in_env = "env" in differing_names(settings)
    of_agents: dict[object, list[OptionValues]] = {}
    for own in settings:
        of_agents.setdefault(own.get("agent"), []).append(own)
    differing = {agent: differing_names(of_agent) for agent, of_agent in of_agents.items()}
    labels = []
    for own in settings:
        named = {}
        names = _names_in_label(own, differing[own.get("agent")], differ_in_env)
        for name in sorted(names):
            if name in own:
                named[name] = own[name]
        agent = str(own.get("agent"))
        labels.append(_label(agent, named))
    return labels


def _names_in_label(own: OptionValues, differing: set[str], differ_in_env: bool) -> set[str]:
    """Return the names of the settings that stand in a group's label."""
    names = set(differing)
    if differ_in_env:
        names.add("env")
    if own.get("training.hindsight") not in UNASKED:  # an auxiliary loss that is asked for always stands there
        names.add("training.hindsight")
    return names


def differing_names(settings: Sequence[OptionValues]) -> set[str]:
    """Return the names of the settings that have different values somewhere."""
    first, *others = settings
    differing = set()
    for other in others:
        for name in {*first, *other}:
            if first.get(name) != other.get(name):
                differing.add(name)
    return differing


def _label(agent: str, settings: OptionValues) -> str:
    """Return e.g. `rate, valve=none`: of a nested name its last part says enough."""
    parts = [agent]
    for name, value in settings.items():
        _, _, last = name.rpartition(".")
        parts.append(f"{last}={value}")
    return ", ".join(parts)


# Estimates


def metric_curve(group: Group, metric: str) -> dict[int, Estimate]:
    """Return a metric at the updates (or environment steps) that all runs of the group share which logged it."""
    curves = []
    for run in group.runs:
        if metric in run.metrics:
            curves.append(run.metrics[metric])
    if not curves:
        return {}
    shared = set.intersection(*map(set, curves))
    estimates = {}
    for at in sorted(shared):
        scores = [Score(curve[at], None) for curve in curves]
        estimates[at] = _estimate(scores)
    return estimates


def varied_option(groups: Sequence[Group]) -> str | None:
    """Return the option that evaluations varied, the one with the most values if several; None if none was."""
    values: dict[str, set[str]] = {}
    for result in _evaluations(groups):
        for name, value in result.options.items():
            texts = values.setdefault(name, set())
            texts.add(json.dumps(value))
    counts = {name: len(texts) for name, texts in values.items()}
    return max(counts, key=counts.__getitem__, default=None)


def compared_score(groups: Sequence[Group], option: str | None) -> str:
    """Return the score that evaluations are compared by: `success_rate`, or `mean_return` if some have no success.

    Args:
        groups: from `read_groups`.
        option: as in `evaluation_cells`, which leaves out results without it.
    """
    for result in _evaluations(groups, option):
        if "success_rate" not in result.scores:
            return "mean_return"
    return "success_rate"


def evaluation_cells(
    groups: Sequence[Group],
    option: str | None,
    score: str,
) -> Cells:
    """Return estimates of a score by group and by the value of an option; other varied options join the label.

    Args:
        groups: from `read_groups`.
        option: the option whose values are told apart, results without it being left out; None if none was varied.
        score: `success_rate` or `mean_return`.
    """
    rows: dict[str, ScoresByValue] = {}
    for group in groups:
        for result in _evaluations([group], option):
            others = dict(result.options)
            value = others.pop(option) if option else None
            label = _label(group.label, others)
            row = rows.setdefault(label, {})
            scores = row.setdefault(_value(value), [])
            scores.append(result.scores[score])
    return {label: _estimates(row) for label, row in rows.items()}


def life_cells(groups: Sequence[Group]) -> Cells:
    """Return estimates of the mean return by group and by the episode of a life, from 1; varied options join the label.

    Args:
        groups: from `read_groups`.
    """
    rows: dict[str, ScoresByValue] = {}
    for group in groups:
        for result in _evaluations([group]):
            for episode, score in enumerate(result.by_episode_of_life, start=1):
                row = rows.setdefault(_label(group.label, result.options), {})
                row.setdefault(episode, []).append(score)
    return {label: _estimates(row) for label, row in rows.items()}


def _estimates(row: ScoresByValue) -> Row:
    estimates = {}
    for value in in_order(row):
        estimates[value] = _estimate(row[value])
    return estimates


def _estimate(scores: Sequence[Score]) -> Estimate:
    """Return the mean over seeds; the interval of a single seed is that of its episodes."""
    count = len(scores)
    means = [score.mean for score in scores]
    interval = scores[0].interval if count == 1 else mean_interval(means)
    return Estimate(mean(means), interval, count)


def in_order(values: Iterable[Value]) -> list[Value]:
    """Return the different values: numbers by size, then texts by the alphabet."""
    different = set(values)
    numbers = filter(is_number, different)
    texts = [value for value in different if isinstance(value, str)]
    return [*sorted(numbers), *sorted(texts)]


def _value(value: object) -> Value:
    return value if is_number(value) and abs(value) <= LARGEST_RESULT else str(value)


def _evaluations(groups: Iterable[Group], option: str | None = None) -> Iterator[EvaluatedSetting]:
    """Return the results of all runs; of an option given, those that it was varied for."""
    for group in groups:
        for run in group.runs:
            for result in run.evaluations:
                if option is None or option in result.options:
                    yield result
