"""One run as its files record it: options, metrics by update or environment step, and evaluations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from rmt_rl.errors import UsageError
from rmt_rl.file_errors import unreadable
from rmt_rl.reading import RESULTS_LIMIT, parse_toml, read_text
from rmt_rl.runs.evaluation import SETTINGS, read_evaluation, read_results
from rmt_rl.runs.folder import CONFIG
from rmt_rl.runs.loggers.jsonl import METRICS, read_line
from rmt_rl.runs.options import RunConfig, learner_class
from rmt_rl.statistics import Interval
from rmt_rl.urls import check_local

SEEDS_OF_A_RUN = ("seed", "data.collect_seed")  # options in which runs of one group may differ
_SEED_OF_ID = re.compile(r"-seed(\d+)-[0-9a-f]{8}-v0$")  # of data sets that `rmt-rl collect` made
UNKNOWN_UNIT = "update or environment step"

OptionValues = Mapping[str, object]
"""Options of a run, an evaluation or an environment by name, as TOML or JSON holds them."""
Curve = Mapping[int, float]
"""A metric by the update, or the environment step, at which it was logged."""


class Score(NamedTuple):
    """A mean over episodes, and its 95% interval where known."""

    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class EvaluatedSetting:
    """Success and return of an agent at one setting of its environment: a result of `evaluation.json`."""

    options: OptionValues
    """The varied options of the environment; empty if none was varied."""
    episodes: int
    success_rate: float | None
    """None where the environment reports no success."""
    success_interval: Interval | None
    mean_return: float
    """Undiscounted."""
    return_interval: Interval | None
    made_with: OptionValues
    """Seed, target return and so on, which results must share to be compared; empty where not recorded."""
    by_episode_of_life: Sequence[Score] = ()
    """Mean return of each episode of a life, in order; none if episodes weren't lives."""

    @property
    def scores(self) -> dict[str, Score]:
        """Return the success rate, where there is one, and the mean return."""
        scores = {"mean_return": Score(self.mean_return, self.return_interval)}
        if self.success_rate is not None:
            scores["success_rate"] = Score(self.success_rate, self.success_interval)
        return scores


@dataclass(frozen=True)
class RunRecord:
    """The contents of one training run's files."""

    path: Path
    seed: int
    """The seed of the training."""
    settings: OptionValues
    """The run's options, nested names joined by dots, without seeds."""
    unit: str
    """Unit of the run's length and of its metrics' places, see `RunConfig.unit`."""
    metrics: Mapping[str, Curve]
    """Curves by the metric's name."""
    evaluations: Sequence[EvaluatedSetting]
    """Empty if the run was never evaluated."""
    checkpoint: str | None = None
    """The evaluated checkpoint and its update, e.g. `last, update 500`."""
    collect_seeds: tuple[int, ...] = ()
    """The first seeds of the collected data sets, as far as they are known."""


def read_run(folder: Path) -> RunRecord:
    """Read the config, the metrics and the evaluations of a run.

    Raises:
        UsageError: the folder holds no run, or one of its files is damaged.
    """
    values = _read_config_values(folder)
    evaluation = read_evaluation(folder)
    results = evaluation["results"] if evaluation else []
    return RunRecord(
        path=folder,
        seed=values.get("seed", 0),
        settings=settings_without_seeds(values),
        unit=_unit(values["agent"], values.get("learner")),
        metrics=_read_metrics(folder / METRICS),
        evaluations=[evaluation_record(result) for result in results],
        checkpoint=evaluation["checkpoint"] if evaluation else None,
        collect_seeds=_collect_seeds(values),
    )


def _collect_seeds(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the seeds from which a run's data were collected: that of the run's own data, or of the data sets' ids."""
    data = values.get("data")
    if not isinstance(data, dict):
        return ()
    datasets = data.get("dataset")
    if not datasets:
        seed = data.get("collect_seed", 0)
        return (seed,) if type(seed) is int else ()
    ids = datasets if isinstance(datasets, list) else [datasets]
    found = [_SEED_OF_ID.search(str(identity)) for identity in ids]
    return tuple(int(seed[1]) for seed in found if seed)


def read_single_evaluation(folder: Path) -> EvaluatedSetting:
    """Return the result of a run that was evaluated once, in the environment of its training.

    Raises:
        UsageError: the run has no evaluation or several, or a file is damaged.
    """
    results = read_results(folder)
    if len(results) != 1:
        raise UsageError(f"{folder} has {len(results)} evaluations, but exactly 1 is needed; evaluate the run again")
    return evaluation_record(results[0])


def evaluation_record(result: Mapping[str, Any]) -> EvaluatedSetting:
    """Return a result of `evaluation.json` or `results.jsonl` as a record."""
    episodes = result.get("episodes", ())
    return EvaluatedSetting(
        options=result["options"],
        episodes=result.get("count", len(episodes)),
        success_rate=result["success_rate"],
        success_interval=_interval(result["success_interval"]),
        mean_return=result["mean_return"],
        return_interval=_interval(result["return_interval"]),
        made_with={name: result[name] for name in SETTINGS if name in result},
        by_episode_of_life=[
            Score(each["mean"], _interval(each["interval"])) for each in result.get("return_by_episode_of_life", ())
        ],
    )


def _interval(bounds: Sequence[float] | None) -> Interval | None:
    if bounds is None:
        return None
    low, high = bounds
    return low, high


def settings_without_seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values, nested names joined by dots, without the seeds in which runs of a group differ."""
    return {name: value for name, value in _flat(values).items() if name not in SEEDS_OF_A_RUN}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _read_config_values(folder: Path) -> dict[str, Any]:
    """Read the values of `config.toml`, which may belong to an environment or agent that isn't installed."""
    check_local(folder)
    path = folder / CONFIG
    try:
        values = parse_toml(read_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{folder} is no run: it has no {CONFIG}; name folders that `rmt-rl train` made") from error
    except OSError as error:
        raise unreadable(str(path), error) or error from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    for name in ("env", "agent"):
        if not isinstance(values.get(name), str):
            raise UsageError(f"{path} is damaged: it names no {name}")
    if not isinstance(values.get("learner", ""), str):
        raise UsageError(f"{path} is damaged: learner={values['learner']!r} is no name")
    if type(values.get("seed", 0)) is not int:
        raise UsageError(f"{path} is damaged: seed={values['seed']!r} is no whole number")
    return values


def _unit(agent: str, learner: str | None) -> str:
    try:
        kind: type[RunConfig] = learner_class(agent, learner).Run
        return kind.unit
    except UsageError:  # the agent isn't installed, but its files can be read all the same
        return UNKNOWN_UNIT


def _read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Read `metrics.jsonl`. If a resumed run logged an update twice, the later line counts."""
    try:
        lines = read_text(path, RESULTS_LIMIT).splitlines() if path.exists() else []
    except OSError as error:
        raise unreadable(str(path), error) or error from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    metrics: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            update, values = read_line(line)
        except ValueError as error:
            is_cut = isinstance(error, json.JSONDecodeError)
            if is_cut and number == len(lines):  # a run that was killed, or is running, may be in the middle of a line
                break
            raise UsageError(f"{path}, line {number}, is damaged: {error}; mend or remove it") from error
        for name, value in values.items():
            metrics.setdefault(name, {})[update] = value
    return metrics


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell numbers from truth values and the rest."""
    return isinstance(value, int | float) and not isinstance(value, bool)
