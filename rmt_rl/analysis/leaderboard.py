"""A leaderboard: what anyone's runs reach, a ranked table for each task.

The scores of an agent on a task are a matrix of seeds by settings. From it rliable (extra `leaderboard`) computes
inter-quartile means and probabilities of improvement: R. Agarwal et al., "Deep Reinforcement Learning at the Edge of
the Statistical Precipice", arXiv 2108.13264.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmt_rl.acting.recording import LANES
from rmt_rl.analysis.aggregate import group_runs
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.analysis.results import FILE, ResultsFile, RunResult
from rmt_rl.analysis.run_records import EvaluatedSetting, RunRecord, read_run
from rmt_rl.errors import UsageError
from rmt_rl.plugins import import_extra
from rmt_rl.runs.evaluation import FILE as EVALUATION
from rmt_rl.runs.find import find_run, is_run_name
from rmt_rl.statistics import Interval, mean

EXTRA = "leaderboard"
PURPOSE = "a leaderboard"
LAST = "last"
ENV_OPTIONS = "env_options."  # begins the names of the environment's options among those of a run
FIGURES = ["rank", "agent", "inter-quartile mean", "beats the next"]
FACTS = ["data", "updates", "seeds"]
COLUMNS = 6  # of settings at most; of more the worst stands in the table
TRAINING_TASK = "the training task"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leaderboard</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
  table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
  th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #8886; white-space: nowrap; }}
</style>
</head>
<body>
{content}
</body>
</html>
"""

Matrix = NDArray[np.float64]
"""Scores, seeds by settings."""


@dataclass(frozen=True)
class Rules:
    """Rules for what counts.

    Attributes:
        seeds: number of training seeds that an entry needs.
        episodes: number of episodes that each evaluation needs.
        resamples: bootstrap samples for each interval.
    """

    seeds: int = 3
    episodes: int = 30
    resamples: int = 1000

    def text(self) -> str:
        """Return the rules as a Markdown list."""
        rules = [
            f"At least {self.seeds} training seeds, and {self.episodes} episodes a setting.",
            "The last checkpoint is tested. None is chosen by its results.",
            "Episodes of the evaluation have other seeds than those of the data, as far as both are recorded.",
            "All entries of a table are tested at the settings that most of them have.",
            "Data and updates are stated. Entries may differ in them.",
        ]
        return "\n".join(f"- {rule}" for rule in rules)


@dataclass(frozen=True)
class Entry:
    """An agent on a task: its runs, which differ in their seeds."""

    label: str
    runs: Sequence[RunRecord]
    source: str = ""  # tells entries of the same label apart

    def score(self, run: RunRecord, setting: str) -> float:
        """Return the success rate of a run at a setting, or its mean return where there is no success."""
        evaluation = _by_setting(run)[setting]
        return evaluation.mean_return if evaluation.success_rate is None else evaluation.success_rate

    def scores(self, settings: Sequence[str]) -> Matrix:
        """Return the scores, seeds by settings."""
        return np.array([[self.score(run, setting) for setting in settings] for run in self.runs])

    def settings(self) -> list[str]:
        """Return the settings at which all runs were tested."""
        tested = [set(_by_setting(run)) for run in self.runs]
        common = set.intersection(*tested)
        return [setting for setting in _by_setting(self.runs[0]) if setting in common]

    def objection(self, rules: Rules, settings: Sequence[str]) -> str | None:
        """Return the reason why the entry isn't ranked, if there is one."""
        missing = [setting for setting in settings if setting not in self.settings()]
        if missing:
            return f"not tested at {missing[0]}"
        if len(self.runs) < rules.seeds:
            return f"seeds: {len(self.runs)}"
        for run in self.runs:
            objection = _objection(run, rules, settings)
            if objection:
                return objection
        return None

    @property
    def data(self) -> str:
        """Return the data that the runs learnt from."""
        settings = self.runs[0].settings
        if "data.feed" not in settings:
            return "by acting"
        datasets = settings.get("data.dataset")
        if isinstance(datasets, list) and datasets:
            return ", ".join(map(str, datasets))
        episodes = settings.get("data.collect_episodes")
        count = f", {episodes:,} episodes" if isinstance(episodes, int) else ""
        return f"the expert{count}"

    @property
    def updates(self) -> str:
        """Return the length of the training."""
        settings = self.runs[0].settings
        length = settings.get("training.updates", settings.get("online.total_timesteps"))
        return f"{length:,}" if isinstance(length, int) else ""


def _by_setting(run: RunRecord) -> dict[str, EvaluatedSetting]:
    return {_described(evaluation): evaluation for evaluation in run.evaluations}


def _described(evaluation: EvaluatedSetting) -> str:
    texts = [f"{name}={json.dumps(value)}" for name, value in evaluation.options.items()]
    return ", ".join(texts) or TRAINING_TASK


def _objection(run: RunRecord, rules: Rules, settings: Sequence[str]) -> str | None:
    if run.checkpoint is not None and not run.checkpoint.startswith(LAST):
        return f"checkpoint: {run.checkpoint}"
    for setting in settings:
        evaluation = _by_setting(run)[setting]
        if evaluation.episodes < rules.episodes:
            return f"{evaluation.episodes} episodes at {setting}"
        if _is_on_the_seeds_of_the_data(run, evaluation):
            return "tested on the seeds of the data"
    return None


def _is_on_the_seeds_of_the_data(run: RunRecord, evaluation: EvaluatedSetting) -> bool:
    """Return True if environments of the evaluation had seeds of those that collected the data."""
    seed, lanes = evaluation.made_with.get("seed"), evaluation.made_with.get("lanes", 1)
    if not isinstance(seed, int) or not isinstance(lanes, int):
        return False
    return any(first - lanes < seed < first + LANES for first in run.collect_seeds)


class Ranked(NamedTuple):
    """An entry in its place.

    Attributes:
        entry: the agent's runs.
        centre: inter-quartile mean of its scores over seeds and settings.
        interval: its 95% interval, from a bootstrap over seeds.
    """

    entry: Entry
    centre: float
    interval: Interval


@dataclass(frozen=True)
class Task:
    """An environment with the options of its training, and all entries that learnt it."""

    name: str
    entries: Sequence[Entry]

    def settings(self) -> list[str]:
        """Return the settings that most entries were tested at."""
        counts = Counter(tuple(sorted(entry.settings())) for entry in self.entries)

        def weight(settings: tuple[str, ...]) -> tuple[int, int]:
            return counts[settings], len(settings)

        chosen = max(counts, key=weight)
        (first, *_) = [entry.settings() for entry in self.entries if set(entry.settings()) == set(chosen)]
        return first

    def table(self, rules: Rules) -> str:
        """Return a heading, the ranked table, and the entries that aren't ranked with the reasons."""
        settings = self.settings()
        if not settings:
            return f"## {self.name}\n\nNo run was tested."
        objections = {entry.label: entry.objection(rules, settings) for entry in self.entries}
        ranked = _ranked([entry for entry in self.entries if objections[entry.label] is None], settings, rules)
        parts = [f"## {self.name}"]
        if ranked:
            parts.append(_table(ranked, settings))
        unranked = [f"{label} ({reason})" for label, reason in objections.items() if reason]
        if unranked:
            parts.append(f"Not ranked: {'; '.join(unranked)}.")
        return "\n\n".join(parts)


def _ranked(entries: Sequence[Entry], settings: Sequence[str], rules: Rules) -> list[Ranked]:
    if not entries:
        return []
    library = import_extra("rliable.library", EXTRA, PURPOSE)
    metrics = import_extra("rliable.metrics", EXTRA, PURPOSE)

    def centre(scores: Matrix) -> Matrix:
        return np.array([metrics.aggregate_iqm(scores)])

    ranked = []
    for entry in entries:
        scores = {entry.label: entry.scores(settings)}
        with _seeded():  # for each entry anew, so that no interval depends on other entries
            centres, intervals = library.get_interval_estimates(scores, centre, reps=rules.resamples)
        lower, upper = intervals[entry.label][:, 0]
        ranked.append(Ranked(entry, float(centres[entry.label][0]), (float(lower), float(upper))))

    def place(one: Ranked) -> tuple[float, float]:
        return one.centre, float(one.entry.scores(settings).mean())

    return sorted(ranked, key=place, reverse=True)


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed NumPy's global generator inside the block: rliable draws from it, whatever generator it is given."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def _table(ranked: Sequence[Ranked], settings: Sequence[str]) -> str:
    metrics = import_extra("rliable.metrics", EXTRA, PURPOSE)
    rows = []
    for place, one in enumerate(ranked):
        scores = one.entry.scores(settings)
        better = ""
        if place + 1 < len(ranked):
            next_scores = ranked[place + 1].entry.scores(settings)
            better = f"{metrics.probability_of_improvement(scores, next_scores):.2f}"
        rank = 1 + sum(other.centre > one.centre for other in ranked)
        figures = [f"{one.centre:.2f}{bracketed(one.interval)}", better]
        means = [mean(list(column)) for column in scores.T]
        shown = means if len(means) <= COLUMNS else [min(means)]
        facts = [one.entry.data, one.entry.updates, str(len(one.entry.runs))]
        rows.append([str(rank), one.entry.label, *figures, *(f"{value:.2f}" for value in shown), *facts])
    columns = list(settings) if len(settings) <= COLUMNS else [f"worst of {len(settings)} settings"]
    return markdown_table([*FIGURES, *columns, *FACTS], rows, left=2)


def leaderboard(names: Iterable[str | Path], rules: Rules) -> str:
    """Return the leaderboard of runs, in Markdown.

    Args:
        names: folders, which are searched for runs and for files `results.jsonl` at any depth; or single runs,
            `zoo:NAME` or `hf://owner/name`. Single runs of one owner may be seeds of one entry.
        rules: what counts.

    Raises:
        UsageError: a folder is missing or holds no results, a run isn't found, a file is damaged, or the extra isn't
            installed.
    """
    entries: list[Entry] = []
    by_owner: dict[str, list[RunRecord]] = {}
    for name in map(str, names):
        if is_run_name(name):
            owner = name.rpartition("/")[0] or "zoo:"
            by_owner.setdefault(owner, []).append(_evaluated_run(name))
        else:
            entries += _entries_of_folder(Path(name))
    for owner, runs in by_owner.items():
        entries += [replace(entry, source=owner) for entry in _grouped(runs)]
    tables = [task.table(rules) for task in _tasks(entries)]
    return "\n\n".join(["# Leaderboard", "An entry counts if these rules hold:", rules.text(), *tables]) + "\n"


def _evaluated_run(name: str) -> RunRecord:
    run = read_run(find_run(name).folder)
    if not run.evaluations:
        raise UsageError(f"{name} holds no evaluation; its owner makes one by rmt-rl evaluate")
    return run


def _entries_of_folder(folder: Path) -> list[Entry]:
    runs = [read_run(file.parent) for file in sorted(folder.rglob(EVALUATION))]
    entries = [*_entries_of_files(folder), *_grouped(runs)]
    if not entries:
        raise UsageError(f"{folder} holds no evaluated runs and no {FILE}; name folders of runs, or a folder above")
    return [replace(entry, source=str(entry.runs[0].path.parent)) for entry in entries]


def _entries_of_files(folder: Path) -> list[Entry]:
    """Return an entry for each config of each `results.jsonl`."""
    entries: dict[tuple[Path, str], list[RunRecord]] = {}
    for file in sorted(folder.rglob(FILE)):
        for result in ResultsFile(file).read():
            entries.setdefault((file, result.config), []).append(_record(result, file))
    return [Entry(_label(config, runs[0]), runs) for (_, config), runs in entries.items()]


def _label(config: str, run: RunRecord) -> str:
    """Return the config's name if it begins with that of its agent, else the agent's."""
    agent = str(run.settings["agent"])
    name = config.rpartition("/")[2]
    return name if name.startswith(agent) else agent


def _record(result: RunResult, file: Path) -> RunRecord:
    path = file.parent / result.name
    return RunRecord(
        path=path,
        seed=result.seed,
        settings=result.settings,
        unit="",
        metrics=result.metrics,
        evaluations=result.evaluations,
        collect_seeds=result.collect_seeds,
    )


def _grouped(all_runs: Iterable[RunRecord]) -> list[Entry]:
    """Return an entry for each group of evaluated runs that differ in their seeds."""
    by_task: dict[str, list[RunRecord]] = {}
    for run in all_runs:
        by_task.setdefault(_task(run), []).append(run)
    groups = [group for runs in by_task.values() for group in group_runs(runs)]
    return [Entry(group.label, group.runs) for group in groups]


def _task(run: RunRecord) -> str:
    options = {name: value for name, value in run.settings.items() if name.startswith(ENV_OPTIONS)}
    return json.dumps([run.settings["env"], options], sort_keys=True)


def _tasks(entries: Sequence[Entry]) -> list[Task]:
    """Return the tasks in the order of their names."""
    by_task: dict[str, list[Entry]] = {}
    for entry in entries:
        by_task.setdefault(_task(entry.runs[0]), []).append(entry)
    names = _task_names(by_task)
    tasks = [Task(names[key], _labelled(own)) for key, own in by_task.items()]
    return sorted(tasks, key=lambda task: task.name)


def _task_names(keys: Iterable[str]) -> dict[str, str]:
    """Name each task by its environment, and by the options in which tasks of that environment differ."""
    parsed = {key: json.loads(key) for key in keys}
    names = {}
    for key, (env, options) in parsed.items():
        others = [other for other_env, other in parsed.values() if other_env == env]
        differing = [name for name in options if any(other.get(name) != options[name] for other in others)]
        texts = [f"{name.removeprefix(ENV_OPTIONS)}={options[name]}" for name in differing]
        names[key] = ", ".join([env, *texts])
    return names


def _labelled(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, those of one label told apart by their folders."""
    counts = Counter(entry.label for entry in entries)
    return [
        entry if counts[entry.label] == 1 else replace(entry, label=f"{entry.label} ({entry.source})")
        for entry in entries
    ]


def as_page(text: str) -> str:
    """Return a leaderboard as a web page by itself; HTML in names shows as text.

    Raises:
        UsageError: the extra isn't installed.
    """
    markdown_it = import_extra("markdown_it", EXTRA, PURPOSE)
    content = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return PAGE.format(content=content)
