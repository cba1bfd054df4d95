"""The data of a run: data sets that the user names or the expert collects, with the labels that the task declares."""

from __future__ import annotations

import warnings
from contextlib import closing
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatten_space
from pydantic import JsonValue

from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.data.best import best_episodes
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.lives import PARTS
from rmt_rl.nn.scaling import UNBOUNDED
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.options import OfflineRun
from rmt_rl.space_fit import joined
from rmt_rl.task import check_same_spaces, default_episodes, hindsight_classes
from rmt_rl.trees import map_leaves

if TYPE_CHECKING:
    from rmt_rl.task import HasSpaces, Task

LARGE_ACTION = 10.0  # heads learn standard deviations up to 7.4
LABELS = ("hindsight", "decisive", "idle")


def open_data(config: OfflineRun) -> EpisodeStore:
    """Return a run's data, collected first if no data set is named; their spaces must be the environment's.

    Raises:
        UsageError: a data set is missing or damaged, can't be collected, or is of another environment; or the
            environment declares no hindsight classes, but the run asks for them.
    """
    task = load_task(config.env)
    hindsight = config.training.hindsight
    if hindsight not in (0, "auto") and not hindsight_classes(task):
        raise UsageError(f"hindsight={hindsight}: env {config.env!r} declares no hindsight; set it to 0")
    annotate = partial(labelled, task) if declared_labels(task) else None
    cache_bytes = config.data.cache_mb << 20
    store = EpisodeStore(_named_or_collected(config, task), cache_bytes, annotate, config.data.strict)
    remedy = "train in the environment that the data come from, with the same options"
    with closing(make_env(task, config.env_options)) as env:
        check_spaces(f"env {config.env!r}", env, store, remedy)
        store.observation_space = joined(store.observation_space, env.observation_space)
        store.action_space = env.action_space  # agents choose actions in its bounds and dtypes
    _keep_best(store, share_of_episodes(config))
    return store


def data_origin(config: OfflineRun) -> dict[str, JsonValue]:
    """Return what must be the same when a run on data sets is resumed."""
    share = share_of_episodes(config)
    return {
        "seed": config.seed,
        "agent": config.agent,
        "env": config.env,
        "env_options": config.env_options.model_dump(mode="json"),
        "dataset": list(dataset_ids(config)),  # an id of ours covers the environment's source too
        "best_episodes": None if share == 1 else share,  # None, as for runs of earlier versions
    }


def share_of_episodes(config: OfflineRun) -> float:
    """Return the share of the episodes, those of the highest returns, that a run trains on."""
    asked = config.data.best_episodes
    if asked is not None:
        return asked
    return agent_class(config.agent).best_episodes


def _keep_best(store: EpisodeStore, share: float) -> None:
    """Keep a share of the episodes, those of the highest returns; warn if that is all of them."""
    if share == 1:
        return
    best = best_episodes(store, share)
    if len(best) == len(store):
        warnings.warn(
            f"best_episodes={share}: all {len(best)} episodes have the return {store.best_return:g}, so all are kept; "
            "filtering needs data of better and worse episodes",
            UserWarning,
            stacklevel=2,
        )
    store.keep(best)


def _named_or_collected(config: OfflineRun, task: Task) -> tuple[str, ...]:
    """Return the ids of the data sets that a run names; without any, collect one and return its id."""
    data = config.data
    if data.dataset:
        return data.dataset
    episodes = data.collect_episodes or default_episodes(task)
    behaviour = Behaviour(noise=data.collect_noise)
    identity = collect(config.env, config.env_options, episodes, data.collect_seed, behaviour)
    return (identity,)


def check_spaces(name: str, thing: HasSpaces, store: EpisodeStore, remedy: str) -> None:
    """Raise a UsageError unless the data have the spaces of a thing, e.g. of an environment."""
    check_same_spaces(f"dataset={', '.join(store.ids)}", store, name, thing, remedy)


def declared_labels(task: Task) -> list[str]:
    """Return the names of the labels of steps that a task declares."""
    return [name for name in LABELS if hasattr(task, name)]


def labelled(task: Task, trajectory: Trajectory) -> Trajectory:
    """Return the trajectory with the labels that its task declares.

    Of a life in a task of single episodes, each episode is labelled by itself.
    """
    names = declared_labels(task)
    observations = trajectory.observations
    is_life = isinstance(observations, dict) and observations.keys() == PARTS
    if not is_life or hasattr(task, "LIFETIME"):
        labels = {name: getattr(task, name)(trajectory) for name in names}
        return replace(trajectory, **labels)
    episodes = _episodes_of_life(trajectory)
    labels = {name: np.concatenate([getattr(task, name)(episode) for episode in episodes]) for name in names}
    return replace(trajectory, **labels)


def _episodes_of_life(life: Trajectory) -> list[Trajectory]:
    """Return the episodes of a life as the environment shows single ones.

    A life doesn't tell how its earlier episodes ended, nor their last observations: they count as truncated, and their
    last observation is the first of the next episode.
    """
    assert isinstance(life.observations, dict)
    observations = life.observations["observation"]
    starts = np.flatnonzero(np.asarray(life.observations["episode_start"])[:-1]).tolist()
    ends = [*starts[1:], len(life)]
    truncations = life.truncations.copy()
    truncations[np.array(ends[:-1], np.int64) - 1] = True
    episodes = []
    for start, end in zip(starts, ends, strict=True):
        steps, seen = slice(start, end), slice(start, end + 1)
        episode = Trajectory(
            observations=map_leaves(itemgetter(seen), observations),
            actions=map_leaves(itemgetter(steps), life.actions),
            rewards=life.rewards[steps],
            terminations=life.terminations[steps],
            truncations=truncations[steps],
        )
        episodes.append(episode)
    return episodes


def large_actions(action_space: Space[Any]) -> str | None:
    """Return a warning if action bounds are too large to learn well, with the remedy; else None."""
    box = flatten_space(action_space)  # discrete actions become zeros and ones
    if not isinstance(box, Box):
        return None
    bounds = np.abs(np.array([box.low, box.high], np.float64))
    is_bound = np.isfinite(bounds) & (bounds < UNBOUNDED)
    largest = np.max(bounds, where=is_bound, initial=0)
    if largest <= LARGE_ACTION:
        return None
    return (
        f"actions reach {largest:g}, but agents learn numbers of about 1 best: leave out --no-standardise, or collect "
        "and train in gymnasium.wrappers.RescaleAction(env, -1, 1)"
    )
