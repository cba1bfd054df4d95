"""Experiments: the results of runs are kept beside their table, a line of `results.jsonl` for each run.

Table and pictures are made from these lines, so that the runs of one config can be made again without all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.analysis.aggregate import Group, group_runs
from rmt_rl.analysis.comparison import comparison_of_groups
from rmt_rl.analysis.panels import CURVES
from rmt_rl.analysis.plot import plot_groups
from rmt_rl.analysis.run_records import (
    Curve,
    EvaluatedSetting,
    OptionValues,
    RunRecord,
    evaluation_record,
    read_run,
    settings_without_seeds,
)
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.reading import RESULTS_LIMIT, parse_json, read_text
from rmt_rl.runs.cpu_time import cpu_seconds
from rmt_rl.runs.evaluation import READ, check_figures
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.loggers.jsonl import check_metric
from rmt_rl.runs.options import RunConfig

if TYPE_CHECKING:
    from rmt_rl.sweeps.engine import PlannedEvaluation

FILE = "results.jsonl"
FIELDS = ("config", "seed", "settings", "metrics", "results")  # every line has them


@dataclass(frozen=True)
class RunResult:
    """The results of one finished run, a line of `results.jsonl`.

    Attributes:
        config: name of the config file, without its ending.
        seed: seed of the training.
        settings: the run's options when it was made, without seeds.
        metrics: its learning curves.
        evaluations: success and return at each setting of its environment.
        cpu_seconds: CPU seconds taken, by phase.
        collect_seeds: the first seeds of the collected data sets; none if they aren't known, as in older files.
    """

    config: str
    seed: int
    settings: OptionValues
    metrics: Mapping[str, Curve]
    evaluations: Sequence[EvaluatedSetting]
    cpu_seconds: Mapping[str, float]
    collect_seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, run: Path, name: str = "") -> RunResult:
        """Read the results of a finished run, named CONFIG-SEED as its folder is, if no other name is given."""
        record = read_run(run)
        config, _, _ = (name or run.name).rpartition("-")
        return cls(
            config=config,
            seed=record.seed,
            settings=record.settings,
            metrics={name: record.metrics[name] for name in CURVES if name in record.metrics},
            evaluations=record.evaluations,
            cpu_seconds=cpu_seconds(run).model_dump(),
            collect_seeds=record.collect_seeds,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """Return the results that a line holds, which has all `FIELDS`."""
        return cls(
            config=values["config"],
            seed=values["seed"],
            settings=values["settings"],
            metrics={name: _curve(name, curve) for name, curve in values["metrics"].items()},
            evaluations=[evaluation_record(result) for result in values["results"]],
            cpu_seconds=values.get("cpu_seconds", {}),
            collect_seeds=_seeds(values.get("collect_seed")),
        )

    @property
    def name(self) -> str:
        """Return CONFIG-SEED."""
        return f"{self.config}-{self.seed}"

    def changed(self, config: RunConfig) -> list[str]:
        """Return the options that differ between the run and a config.

        Options that are new since then don't count: they are left at their defaults.
        """
        now = option_values(config)
        return [name for name, value in self.settings.items() if now.get(name) != value]

    def to_json(self) -> dict[str, Any]:
        """Return the values of the line."""
        values: dict[str, Any] = {
            "config": self.config,
            "seed": self.seed,
            "settings": self.settings,
            "metrics": self.metrics,
            "results": [_result(evaluation) for evaluation in self.evaluations],
            "cpu_seconds": self.cpu_seconds,
        }
        if self.collect_seeds:
            values["collect_seed"] = _as_value(self.collect_seeds)
        return values


def _seeds(value: object) -> tuple[int, ...]:
    """Return the seeds that a line's `collect_seed` holds: null, a number, or several."""
    if value is None:
        return ()
    seeds = value if isinstance(value, list) else [value]
    if any(type(seed) is not int for seed in seeds):
        raise ValueError(f"collect_seed={value!r} is no whole number")
    return tuple(seeds)


def _as_value(seeds: tuple[int, ...]) -> int | list[int]:
    """Return the seeds, at least one, as `_seeds` reads them."""
    return seeds[0] if len(seeds) == 1 else list(seeds)


def _curve(name: str, values: Mapping[str, float]) -> dict[int, float]:
    """Return a stored curve.

    Raises:
        ValueError: a value is no number, or out of range.
    """
    for value in values.values():
        check_metric(name, value)
    return {int(at): value for at, value in values.items()}


def _result(evaluation: EvaluatedSetting) -> dict[str, Any]:
    """Return an evaluation without its single episodes."""
    values: dict[str, Any] = {"count": evaluation.episodes}
    for name in READ:
        values[name] = getattr(evaluation, name)
    if evaluation.by_episode_of_life:
        values["return_by_episode_of_life"] = [score._asdict() for score in evaluation.by_episode_of_life]
    return values | dict(evaluation.made_with)


@dataclass(frozen=True)
class ResultsFile:
    """A file of results, a line for each run."""

    path: Path

    def read(self) -> list[RunResult]:
        """Return all results; none if there is no file.

        Raises:
            UsageError: the file is damaged.
        """
        return _read_results(self.path) if self.path.exists() else []

    def write(self, results: Iterable[RunResult]) -> None:
        """Write these results in place of all others."""
        lines = [json.dumps(result.to_json()) + "\n" for result in results]
        text = "".join(lines)
        write_atomically(self.path, text.encode())

    def put(self, result: RunResult) -> None:
        """Add a result, in place of that of the same config and seed if there is one."""
        others = [other for other in self.read() if other.name != result.name]
        self.write([*others, result])


@dataclass(frozen=True)
class Experiment:
    """A folder with configs, the results of their runs, a table and pictures.

    Attributes:
        folder: where results, table and pictures go.
        configs: for each config file, the evaluations of its runs; in the order of the table.
    """

    folder: Path
    configs: Mapping[Path, Sequence[PlannedEvaluation]]

    @property
    def file(self) -> ResultsFile:
        """Return the file of the results."""
        return ResultsFile(self.folder / FILE)

    @property
    def names(self) -> list[str]:
        """Return the names of the configs, their files' without the ending."""
        return [file.stem for file in self.configs]

    def draw(self) -> str:
        """Write table and pictures from the stored results of all configs, and return the table.

        Raises:
            UsageError: as `stored` does.
        """
        return self.write(self.stored(list(self.configs)))

    def stored(self, configs: Iterable[Path]) -> list[RunResult]:
        """Return the stored results of these configs.

        Raises:
            UsageError: a config has none, or those of other options than it has now; or the file is damaged.
        """
        path = self.file.path
        results = self.file.read()
        chosen = []
        for config in configs:
            own = [result for result in results if result.config == config.stem]
            if not own:
                raise UsageError(f"{path} has no results of {config.stem}: make it too, with --only or without")
            for result in own:
                _check_current(result, config, path)
            chosen += own
        return chosen

    def write(self, results: Iterable[RunResult]) -> str:
        """Write `results.jsonl`, table and pictures; return the table."""
        names = self.names

        def place(result: RunResult) -> tuple[int, int]:
            return names.index(result.config), result.seed

        results = sorted(results, key=place)
        self.file.write(results)
        configs = {file.stem: read_config(file) for file in self.configs}
        records = [_record(result, configs[result.config]) for result in results]
        return write_comparison(group_runs(records), self.folder)


def _read_results(path: Path) -> list[RunResult]:
    results = []
    lines = read_text(path, RESULTS_LIMIT).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            results.append(_read_result(line))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {number}, is damaged: {error}; make all results again") from None
    return results


def _read_result(line: str) -> RunResult:
    values = parse_json(line)
    if not set(FIELDS) <= set(values):
        raise ValueError("a field is missing")
    for result in values["results"]:
        check_figures(result)
    return RunResult.from_json(values)


def _check_current(result: RunResult, config: Path, path: Path) -> None:
    """Raise an error if a stored result is of other options than its config has now."""
    changed = result.changed(read_config(config))
    if changed:
        options = ", ".join(changed)
        what = f"results of {config.stem} with {options} other than in {config.name}"
        raise UsageError(f"{path} has {what}: make it again too")


def _record(result: RunResult, config: RunConfig) -> RunRecord:
    """Return stored results as those of a run with the config of today, by whose options groups are labelled."""
    return RunRecord(
        path=Path(result.name),
        seed=result.seed,
        settings=option_values(config),
        unit=config.unit,
        metrics=result.metrics,
        evaluations=result.evaluations,
    )


def option_values(config: RunConfig) -> OptionValues:
    """Return a config's options by name, without seeds."""
    return settings_without_seeds(config.model_dump(mode="json", exclude_none=True))


def write_comparison(groups: Sequence[Group], folder: Path) -> str:
    """Write `table.md`, `learning.png` and `success.png` into a folder; return the table."""
    text = comparison_of_groups(groups)
    write_atomically(folder / "table.md", f"{text}\n".encode())
    plot_groups(groups, folder / "learning.png", ["learning"])
    plot_groups(groups, folder / "success.png", ["evaluation"])
    return text
