"""What runs reached, read from their files, grouped by config, with intervals over seeds."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_rl.errors import UsageError
from rmt_rl.runs.evaluation import FORMAT, SETTINGS, EvaluationRecord, read_evaluation
from rmt_rl.statistics import Interval, mean, mean_interval

UNGROUPED = ("seed", "data.collect_seed")  # what runs of one group may differ in


@dataclass(frozen=True)
class Run:
    """The files of one training run."""

    path: Path
    seed: int
    """Of its training."""
    settings: Mapping[str, Any]
    """Its config, nested names joined by dots, without what runs of one group may differ in."""
    metrics: Mapping[str, Mapping[int, float]]
    """By name, then by update."""
    results: Sequence[Mapping[str, Any]]
    """Of `evaluation.json`; none when the run was never evaluated."""
    evaluated: str | None = None
    """The checkpoint that was, and its update, as `evaluation.json` says it."""


@dataclass(frozen=True)
class Group:
    """Runs of one config, which differ in their seed."""

    label: str
    runs: Sequence[Run]

    @property
    def online(self) -> bool:
        """They learnt by acting: what they logged is counted in environment steps, not in updates."""
        return any(name.startswith("online.") for name in self.runs[0].settings)


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds; the 95% interval of a single seed is that of its episodes, where known."""

    mean: float
    interval: Interval | None
    count: int


Cells = Mapping[str, Mapping[Any, Estimate]]
"""By label, then by the varied option's value."""


def read_run(path: Path) -> Run:
    """Read the config, the metrics and the evaluation of a run.

    Raises:
        UsageError: the folder holds no run, or a file of it is damaged.
    """
    config = path / "config.toml"
    try:
        settings = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} is no run: it has no config.toml; name folders that `rmt-rl train` made") from error
    except ValueError as error:
        raise UsageError(f"{config} is damaged: {error}") from error
    for name in ("env", "agent"):
        if not isinstance(settings.get(name), str):
            raise UsageError(f"{config} is damaged: it names no {name}")
    none: EvaluationRecord = {"format": FORMAT, "checkpoint": None, "results": []}
    evaluation = read_evaluation(path) or none
    metrics = _read_metrics(path / "metrics.jsonl")
    return Run(
        path, settings.get("seed", 0), grouped_by(settings), metrics, evaluation["results"], evaluation["checkpoint"]
    )


def grouped_by(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values, nested names joined by dots, without what runs of one group may differ in."""
    return {name: value for name, value in _flat(values).items() if name not in UNGROUPED}


def read_groups(paths: Iterable[Path]) -> list[Group]:
    """Read runs, each folder once, and group them as `group_runs` does.

    Raises:
        UsageError: there is no run, a folder holds none, or two are of the same config and seed.
    """
    runs = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    if not runs:
        raise UsageError("no runs were given; name folders that `rmt-rl train` made")
    groups = group_runs(runs)
    for group in groups:
        _warn_of_differences(group)
    return groups


def _warn_of_differences(group: Group) -> None:
    """Say so where a mean would be over runs that were evaluated in different ways, or before they were finished."""
    ways: dict[str, Path] = {}
    for run in group.runs:
        if run.evaluated is None or not run.results:
            continue
        checkpoint, _, update = run.evaluated.partition(", update ")
        # Not the target return, which follows from each run's own data.
        settings = {name: run.results[0].get(name) for name in SETTINGS if name != "target_return"}
        ways.setdefault(", ".join([f"checkpoint={checkpoint}", *(f"{k}={v}" for k, v in settings.items())]), run.path)
        newest = max((at for curve in run.metrics.values() for at in curve), default=0)
        if checkpoint == "last" and update.isdigit() and int(update) < newest:
            warnings.warn(
                f"{run.path} was evaluated at {update} and has been trained to {newest} since; evaluate it again",
                UserWarning,
                stacklevel=2,
            )
    if len(ways) > 1:
        (one, first), (other, second), *_ = ways.items()
        warnings.warn(
            f"{group.label}: {first} was evaluated with {one}, but {second} with {other}; evaluate them alike",
            UserWarning,
            stacklevel=2,
        )


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Group runs that differ only in their seeds; in the order given.

    A group is labelled by its agent and by the settings in which it differs from other groups of that agent.

    Raises:
        UsageError: two are of the same config and seed.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(run.settings, sort_keys=True, default=str), []).append(run)
    for group in members.values():
        _check_seeds_differ(group)
    labels = _labels([group[0].settings for group in members.values()])
    return [Group(label, group) for label, group in zip(labels, members.values(), strict=True)]


def _check_seeds_differ(runs: Iterable[Run]) -> None:
    """An interval over seeds would come out too narrow if one of them counted twice."""
    seen: dict[int, Path] = {}
    for run in runs:
        if run.seed in seen:
            raise UsageError(
                f"{seen[run.seed]} and {run.path} are of the same config and the same seed, {run.seed}; leave one out"
            )
        seen[run.seed] = run.path


def metric_curve(group: Group, metric: str) -> dict[int, Estimate]:
    """Return a metric by update, at the updates that every run of the group has which has the metric at all."""
    curves = [run.metrics[metric] for run in group.runs if metric in run.metrics]
    shared = set(curves[0]).intersection(*curves[1:]) if curves else set()
    return {update: _estimate([curve[update] for curve in curves], None) for update in sorted(shared)}


def varied_option(groups: Sequence[Group]) -> str | None:
    """Return the option that evaluations varied, the one with the most values if several; None if none was."""
    values: dict[str, set[Hashable]] = {}
    for result in _results(groups):
        for name, value in result["options"].items():
            values.setdefault(name, set()).add(json.dumps(value))
    return max(values, key=lambda name: len(values[name])) if values else None


def measure(groups: Sequence[Group], option: str | None) -> str:
    """Return what evaluations are compared by: `success_rate`, or `mean_return` where some have no success.

    Args:
        groups: from `read_groups`.
        option: as in `evaluation_cells`, which leaves out results without it.
    """
    compared = [result for result in _results(groups) if option is None or option in result["options"]]
    rated = all(result["success_rate"] is not None for result in compared)
    return "success_rate" if rated else "mean_return"


def evaluation_cells(groups: Sequence[Group], option: str | None, value: str) -> Cells:
    """Return estimates of a measure by group and by the value of an option; other varied options join the label.

    Args:
        groups: from `read_groups`.
        option: which option's values to tell apart, results without it being left out; None if none was varied.
        value: `success_rate` or `mean_return`.
    """
    interval = {"success_rate": "success_interval", "mean_return": "return_interval"}[value]
    found: dict[str, dict[Any, list[tuple[float, Interval | None]]]] = {}
    for group in groups:
        for run in group.runs:
            for result in run.results:
                if option is not None and option not in result["options"]:
                    continue
                others = {name: setting for name, setting in result["options"].items() if name != option}
                cells = found.setdefault(_label(group.label, others), {})
                cells.setdefault(_hashable(result["options"].get(option)), []).append((result[value], result[interval]))
    return {
        label: {at: _estimate([one for one, _ in seen], seen[0][1]) for at, seen in sorted(cells.items(), key=_order)}
        for label, cells in found.items()
    }


def _estimate(values: Sequence[float], of_one: Interval | None) -> Estimate:
    return Estimate(mean(values), mean_interval(values) if len(values) > 1 else of_one, len(values))


def _results(groups: Iterable[Group]) -> list[Mapping[str, Any]]:
    return [result for group in groups for run in group.runs for result in run.results]


def _order(cell: tuple[Any, object]) -> tuple[bool, Any]:
    """Sort numbers by size, before whatever else by its name."""
    number = is_number(cell[0])
    return not number, cell[0] if number else str(cell[0])


def is_number(value: Any) -> bool:
    """Tell numbers from truth values and the rest."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hashable(value: Any) -> Hashable:
    return value if is_number(value) else str(value)


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each group by its agent, and by the settings in which groups of that agent differ, its env if any do."""
    labels = []
    for own in settings:
        peers = [other for other in settings if other.get("agent") == own.get("agent")]
        names = {name for peer in peers for name in peer if any(peer.get(name) != other.get(name) for other in peers)}
        if any(other.get("env") != own.get("env") for other in settings):
            names.add("env")
        if own.get("training.hindsight"):  # what helps an agent to learn is never left unsaid
            names.add("training.hindsight")
        labels.append(_label(str(own.get("agent")), {name: own[name] for name in sorted(names) if name in own}))
    return labels


def _label(agent: str, settings: Mapping[str, Any]) -> str:
    # The last part of a nested name says enough.
    return ", ".join([agent, *(f"{name.rpartition('.')[2]}={value}" for name, value in settings.items())])


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Read `metrics.jsonl`; of an update logged twice, by a resumed run, the later line counts."""
    metrics: dict[str, dict[int, float]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            update = record.pop("update")
        except ValueError as error:
            if number == len(lines):  # a run that was killed, or is running, may be in the middle of its last line
                break
            raise UsageError(f"{path}, line {number}, is damaged: {error}") from error
        except (AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number}, is damaged: no object with an update") from error
        if not all(map(is_number, [update, *record.values()])):
            raise UsageError(f"{path}, line {number}, is damaged: a value is no number")
        for name, value in record.items():
            metrics.setdefault(name, {})[update] = value
    return metrics
