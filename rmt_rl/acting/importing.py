"""Make Minari data sets of files of others, whose episodes are fitted to the spaces of an environment."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rmt_rl.acting.collect import env_spec, reported
from rmt_rl.acting.evaluate import ProgressReport, evaluate
from rmt_rl.acting.policies import RandomPolicy, has_expert, make_expert
from rmt_rl.config import Frozen
from rmt_rl.data.columns import data_files
from rmt_rl.data.fitting import check_actions, fitted
from rmt_rl.data.layout import Layout, RawEpisode
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import is_made, write_dataset
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.registry import data_format, load_task
from rmt_rl.task import HasSpaces, Options, Policy, Task, task_config

SCALED = ("observations", "actions", "rewards")


@dataclass(frozen=True)
class Import:
    """Everything that is said about a data set to make of files.

    Attributes:
        format: name of the layout of the files.
        files: files, and folders of them.
        dataset_id: Minari id of the new data set, `namespace/name-v0`.
        task_name: the environment that the data are from.
        options: options of the environment; its defaults for the rest.
        columns: keys of columns by role, beside those of the format.
        scales: factors of observations, actions and rewards.
        algorithm: name of the policy that acted.
        reference_episodes: episodes that random actions and the expert play for the reference scores; 0 for none.
        seed: seed of these episodes.
    """

    format: str
    files: Sequence[Path]
    dataset_id: str
    task_name: str
    options: Options
    columns: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    algorithm: str = "unknown"
    reference_episodes: int = 100
    seed: int = 0


def import_dataset(given: Import, progress: ProgressReport | None = None) -> str:
    """Write a Minari data set of the episodes in files, and return its id. One episode is held in memory at a time.

    The metadata name the environment. The reference scores, which normalise returns, are mean returns of random actions
    and of the environment's expert; without an expert, the best return of the data takes its place.

    Raises:
        UsageError: a name is unknown, the data set is there already, a file can't be read, or its values don't fit the
            environment. No data set is made then.
    """
    if is_made(given.dataset_id):
        raise UsageError(f"data set {given.dataset_id!r} exists already; choose another --id")
    layout = data_format(given.format).mapped(given.columns)
    layout.check()
    for name in given.scales:
        if name not in SCALED:
            raise UsageError(f"--scale {name}: only {', '.join(SCALED)} are scaled")
    files = data_files(given.files)
    task = load_task(given.task_name)
    config = task_config(task, given.options)
    spec = env_spec(task, config)
    with closing(make_env(task, config)) as env, closing(_raw_episodes(layout, files, spec.max_episode_steps)) as raw:
        episodes = (_trajectory(each, env, given.scales) for each in raw)
        first = next(episodes, None)  # so that bad files are told before the references are played
        scores = _references(task, config, env, given)
        write_dataset(
            given.dataset_id,
            reported(chain([] if first is None else [first], episodes), progress),
            env_spec=spec,
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm_name=given.algorithm,
            description=f"Episodes in {task.ID}, imported from {len(files)} files of the format {given.format}.",
            ref_min_score=scores.random,
            ref_max_score=scores.expert,
            metadata={"import": json.dumps(_facts(given, len(files)))},
        )
    return given.dataset_id


def _raw_episodes(layout: Layout, files: Iterable[Path], limit: int | None) -> Generator[RawEpisode, None, None]:
    """Yield the episodes of files. A file is closed as soon as this generator is, also behind an error."""
    for file in files:
        with closing(layout.episodes(file, limit)) as episodes:
            yield from episodes


def _facts(given: Import, files: int) -> dict[str, object]:
    return {
        "format": given.format,
        "files": files,
        "columns": dict(given.columns),
        "scales": dict(given.scales),
    }


def _trajectory(raw: RawEpisode, env: HasSpaces, scales: Mapping[str, float]) -> Trajectory:
    """Return an episode with the values of an environment.

    Raises:
        UsageError: it doesn't fit; names its place.
    """
    steps = len(raw.rewards)
    is_last = np.arange(steps) == steps - 1
    never = np.zeros(steps, np.bool_)
    terminations, truncations = (is_last, never) if raw.terminated else (never, is_last)
    try:
        observations = fitted(raw.observations, env.observation_space, "observations", scales.get("observations", 1))
        actions = fitted(raw.actions, env.action_space, "actions", scales.get("actions", 1))
        check_actions(actions, env.action_space)
        if raw.rewards.size != steps:
            raise UsageError(f"rewards has the shape {raw.rewards.shape[1:]} a step; give one number")
        rewards = raw.rewards.reshape(steps) * float(scales.get("rewards", 1))
        return Trajectory(observations, actions, rewards, terminations, truncations)
    except UsageError as error:
        raise UsageError(f"{raw.place}: {error}") from error


class _Scores(NamedTuple):
    """Reference scores; None for what isn't known."""

    random: float | None
    expert: float | None


def _references(task: Task, config: Frozen, env: HasSpaces, given: Import) -> _Scores:
    """Return the mean returns of random actions and of the expert."""
    if not given.reference_episodes:
        return _Scores(None, None)

    def score(policy: Policy) -> float:
        return evaluate(policy, task, config, given.reference_episodes, given.seed).mean_return

    random = score(RandomPolicy(env.action_space, given.seed))
    if not has_expert(task, config):
        return _Scores(random, None)
    return _Scores(random, score(make_expert(task, config, given.seed)))
